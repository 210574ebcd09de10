"""One pass of k-means over some vectors: the nearest centroid of each, and sums that add up over parts.

Sums over all vectors come from one array in memory, or from parts on disk (stored_vectors.py). Both add up the same
groups in the same order, so they give the same centroids. Read next: glotok_ray/teacher/clustering.py
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from glotok_ray.teacher.preparation import NUMBERS_PER_BLOCK, add_up, blocks

# Worst-served vectors that a pass remembers, to which empty clusters move.
_SPARE_VECTORS = 256


class PartialSums(NamedTuple):
    """What one pass over some vectors adds to a Lloyd iteration; sums of groups add up."""

    sums: Float[np.ndarray, "clusters width"]
    counts: Int[np.ndarray, " clusters"]
    objective: float
    """Summed squared distance to the nearest centroid, or summed cosine when spherical."""
    worst: Float[np.ndarray, "spare width"]
    """The worst-served vectors, worst first."""
    badness: Float[np.ndarray, " spare"]

    def __add__(self, other: "PartialSums") -> "PartialSums":  # type: ignore[override]
        badness = np.concatenate([self.badness, other.badness])
        order = np.argsort(-badness, kind="stable")[:_SPARE_VECTORS]
        return PartialSums(
            self.sums + other.sums,
            self.counts + other.counts,
            self.objective + other.objective,
            np.concatenate([self.worst, other.worst])[order],
            badness[order],
        )


class Vectors(Protocol):
    """All prepared vectors, wherever they lie."""

    count: int

    def rows(self, indices: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m width"]:
        """The vectors at these ascending positions."""
        ...

    def partial_sums(self, centroids: Float[np.ndarray, "clusters width"]) -> PartialSums:
        """The sums over all vectors."""
        ...


class InMemory:
    """Prepared vectors in one array, added up as if each part were read by itself."""

    def __init__(
        self,
        vectors: Float[np.ndarray, "n width"],
        *,
        spherical: bool,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`groups` hold the vectors of each part, in order; without them all are one part."""
        self.count = len(vectors)
        self._vectors, self._spherical = vectors, spherical
        self._groups = groups or [[len(vectors)]]

    def rows(self, indices: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m width"]:
        """Copies of these rows."""
        return self._vectors[indices]

    def partial_sums(self, centroids: Float[np.ndarray, "clusters width"]) -> PartialSums:
        """The sums of the groups' sums, in order."""
        return add_up(add_up(sums) for sums in self._groups_sums(centroids))

    def _groups_sums(self, centroids: np.ndarray) -> Iterator[Iterator[PartialSums]]:
        # One at a time: each holds an array as large as all centroids in fp64.
        start = 0
        for group in self._groups:
            edges = start + np.cumsum([0, *group])
            yield (
                partial_sums(self._vectors[a:b], centroids, spherical=self._spherical)
                for a, b in itertools.pairwise(edges)
            )
            start = edges[-1]


def partial_sums(
    vectors: Float[np.ndarray, "n width"],
    centroids: Float[np.ndarray, "clusters width"],
    *,
    spherical: bool,
    device: torch.device | None = None,
) -> PartialSums:
    """One group's share of a Lloyd iteration: nearest centroids by faiss, or by torch on a GPU.

    Raises ValueError for vectors or centroids that are not finite: nothing is nearest to them.
    """
    nearest, badness = _nearest(vectors, centroids, spherical=spherical, device=device)
    # The worst distance of a vector to its nearest centroid is not finite where either is not.
    if len(badness) and not (np.isfinite(badness).all() and nearest.min() >= 0):
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        where = f"{len(broken)} of {len(vectors)} feature vectors" if len(broken) else "centroids"
        raise ValueError(
            f"{where} hold NaN or infinite values; make the features again with --fresh, with a network and weights "
            "that give finite ones"
        )
    sums = torch.zeros(centroids.shape, dtype=torch.float64)
    start = 0
    for block in blocks(vectors):
        index = torch.from_numpy(nearest[start : start + len(block)])
        sums.index_add_(0, index, torch.from_numpy(block.astype(np.float64)))
        start += len(block)
    worst = np.argsort(-badness, kind="stable")[:_SPARE_VECTORS]
    objective = float(badness.astype(np.float64).sum())
    if spherical:
        objective = len(vectors) - objective
    counts = np.bincount(nearest, minlength=len(centroids))
    return PartialSums(sums.numpy(), counts, objective, vectors[worst], badness[worst])


def _nearest(
    vectors: np.ndarray,
    centroids: np.ndarray,
    *,
    spherical: bool,
    device: torch.device | None,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The nearest centroid of each vector, and how badly it serves it: squared distance, or 1 -
    cosine.
    """
    if device is not None and device.type == "cuda":
        return nearest_by_product(vectors, centroids, spherical=spherical, device=device)
    import faiss

    index = (faiss.IndexFlatIP if spherical else faiss.IndexFlatL2)(vectors.shape[1])
    index.add(centroids)
    scores, nearest = index.search(np.ascontiguousarray(vectors), 1)
    badness = 1 - scores[:, 0] if spherical else np.maximum(scores[:, 0], 0)
    return nearest[:, 0], badness


def nearest_by_product(
    vectors: Float[np.ndarray, "n width"],
    centroids: Float[np.ndarray, "clusters width"],
    *,
    spherical: bool,
    device: torch.device,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """What faiss finds, by matrix products in fp32 on `device`."""
    places = torch.from_numpy(centroids).to(device)
    half = torch.zeros(len(places), device=device) if spherical else places.square().sum(1) / 2
    rows = max(1, NUMBERS_PER_BLOCK // len(places))
    found, badness = [], []
    for start in range(0, len(vectors), rows):
        block = torch.from_numpy(vectors[start : start + rows]).to(device)
        score, nearest = (block @ places.T - half).max(dim=1)
        bad = 1 - score if spherical else (block.square().sum(1) - 2 * score).clamp_min(0)
        found.append(nearest.cpu().numpy())
        badness.append(bad.cpu().numpy())
    return np.concatenate(found), np.concatenate(badness)
