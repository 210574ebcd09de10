"""K-means over feature vectors: its centroids are the teacher's codes (paper section 3.3).

One Lloyd loop, which asks for sums over all vectors and does not know where they lie: in memory here, or on disk and
shared out over a cluster (stages/build_teacher.py). Both add up the same groups in the same order, so they give
the same centroids.
Read next: glotok_ray/teacher/histogram.py
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np
import torch
from jaxtyping import Float, Int

from glotok_ray.config.jobs import TeacherRun
from glotok_ray.progress import ProgressLine
from glotok_ray.storage import artefact
from glotok_ray.teacher.preparation import NUMBERS_PER_BLOCK, add_up, blocks, normalize_rows

logger = logging.getLogger(__name__)

# Below this, faiss itself warns that centroids are badly determined.
FEWEST_POINTS_PER_CENTROID = 39
# k-means++ walks a sample, one pass per centroid: this many vectors for each.
_SAMPLE_PER_CENTROID = 32
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


class Clusters(NamedTuple):
    """Centroids in the prepared space, and how they came about."""

    centroids: Float[np.ndarray, "clusters width"]
    sizes: Int[np.ndarray, " clusters"]
    """Vectors nearest to each centroid; none is 0."""
    objective: list[float]
    """Before each update and at the end: summed squared distance, or summed cosine when spherical."""


class State(NamedTuple):
    """A Lloyd run between two iterations; enough to go on with."""

    restart: int = 0
    objective: tuple[float, ...] = ()
    centroids: Float[np.ndarray, "clusters width"] | None = None
    best: Clusters | None = None


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


# ------------------------------------------------------------------------------------------ Lloyd


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


def fit(
    vectors: Vectors,
    num_clusters: int,
    config: TeacherRun,
    *,
    state: State | None = None,
    save: Callable[[State], None] = lambda state: None,
    stage: str = "k-means",
    setting: str = "num_clusters",
) -> Clusters:
    """Lloyd iterations from `kmeans_restarts` seeds; the best of the runs.

    `save` gets the state after every iteration; from any such `state` the run goes on to the same centroids. Raises
    ValueError, which names the `setting`, when the vectors are too alike.
    """
    state = state or State()
    progress = ProgressLine(stage, config.kmeans_restarts * config.kmeans_iterations, "iterations")
    while state.restart < config.kmeans_restarts:
        if state.centroids is None:
            seeds = _seeds(vectors, num_clusters, config, state.restart)
            state = state._replace(centroids=seeds)
        state = _lloyd(vectors, config, state, save, progress, setting)
        save(state)
    assert state.best is not None
    return state.best


def _lloyd(
    vectors: Vectors,
    config: TeacherRun,
    state: State,
    save: Callable[[State], None],
    progress: ProgressLine,
    setting: str,
) -> State:
    """One run to its end; the state before the next restart."""
    centroids = state.centroids
    assert centroids is not None
    for iteration in range(len(state.objective), config.kmeans_iterations):
        found = vectors.partial_sums(centroids)
        moved = _update(centroids, found, spherical=config.spherical)
        done, centroids = np.array_equal(moved, centroids), moved
        state = state._replace(centroids=moved, objective=(*state.objective, found.objective))
        progress.update(
            state.restart * config.kmeans_iterations + iteration + 1,
            f"objective {found.objective:.6g}",
        )
        if done:
            break
        save(state)
    centroids, last = _without_empty(
        vectors, centroids, spherical=config.spherical, setting=setting
    )
    clusters = Clusters(centroids, last.counts, [*state.objective, last.objective])
    logger.info(
        "k-means, run %d of %d: objective %.6g after %d iterations",
        state.restart + 1,
        config.kmeans_restarts,
        last.objective,
        len(state.objective),
    )
    best = _better(state.best, clusters, spherical=config.spherical)
    return State(restart=state.restart + 1, best=best)


def _better(best: Clusters | None, other: Clusters, *, spherical: bool) -> Clusters:
    if best is None:
        return other
    gained = other.objective[-1] - best.objective[-1]
    return other if (gained > 0 if spherical else gained < 0) else best


def _seeds(vectors: Vectors, num_clusters: int, config: TeacherRun, restart: int) -> np.ndarray:
    """Initial centroids: drawn vectors, or k-means++ over a drawn sample."""
    generator = np.random.default_rng([config.seed, restart])
    wanted = num_clusters
    if config.kmeans_seeding == "kmeans++":
        wanted = min(vectors.count, _SAMPLE_PER_CENTROID * num_clusters)
    drawn = vectors.rows(np.sort(generator.choice(vectors.count, wanted, replace=False)))
    if config.kmeans_seeding == "random":
        return drawn
    # faiss's stubs lack its newer classes.
    library: Any = faiss
    seeding = library.ClusteringInitialization(drawn.shape[1], num_clusters)
    seeding.method = library.ClusteringInitMethod_KMEANS_PLUS_PLUS
    seeding.seed = int(generator.integers(1 << 31))
    seeds = np.empty((num_clusters, drawn.shape[1]), np.float32)
    seeding.init_centroids(len(drawn), library.swig_ptr(drawn), library.swig_ptr(seeds))
    return seeds


def _update(centroids: np.ndarray, found: PartialSums, *, spherical: bool) -> np.ndarray:
    """Means of the clusters; empty ones move to the worst-served vectors."""
    moved = centroids.copy()
    filled = found.counts > 0
    moved[filled] = found.sums[filled] / found.counts[filled, None]
    empty = np.flatnonzero(~filled)[: len(found.worst)]
    moved[empty] = found.worst[: len(empty)]
    return normalize_rows(moved) if spherical else moved


def _without_empty(
    vectors: Vectors, centroids: np.ndarray, *, spherical: bool, setting: str
) -> tuple[np.ndarray, PartialSums]:
    """Move centroids that no vector is nearest to onto the worst-served vectors, until none is left."""
    previous: PartialSums | None = None
    while True:
        found = vectors.partial_sums(centroids)
        empty = np.flatnonzero(found.counts == 0)
        if len(empty) == 0:
            return centroids, found
        # Each move serves its vector better, unless all vectors lie on centroids already.
        if previous is not None:
            gain = found.objective - previous.objective
            if (gain if spherical else -gain) <= 1e-7 * abs(previous.objective):
                raise ValueError(
                    f"{setting} = {len(centroids)}: {len(empty)} clusters stay empty, since the "
                    f"{vectors.count} feature vectors hold too few different ones; lower it to at most "
                    f"{len(centroids) - len(empty)}, or use more images"
                )
        previous = found
        centroids = centroids.copy()
        empty = empty[: len(found.worst)]
        centroids[empty] = found.worst[: len(empty)]


def check_count(count: int, config: TeacherRun) -> None:
    """Raise ValueError when `count` vectors cannot fill the clusters; warn when they are few."""
    if config.clusters_per_class:
        return
    if count < config.num_clusters:
        raise ValueError(
            f"num_clusters = {config.num_clusters}: only {count} feature vectors are drawn; lower "
            f"num_clusters, or raise max_images ({config.max_images}) or vectors_per_image "
            f"({config.vectors_per_image})"
        )
    if count < FEWEST_POINTS_PER_CENTROID * config.num_clusters:
        logger.warning(
            "%d vectors for %d clusters are %.1f per centroid; below %d centroids follow single "
            "vectors. Raise max_images or vectors_per_image, or lower num_clusters",
            count,
            config.num_clusters,
            count / config.num_clusters,
            FEWEST_POINTS_PER_CENTROID,
        )


# ------------------------------------------------------------------------------------------ state on disk


def save_state(path: Path, state: State) -> None:
    """Write a state so that a reader sees the old one or the new one."""
    arrays: dict[str, Any] = {"restart": state.restart, "objective": state.objective}
    if state.centroids is not None:
        arrays["centroids"] = state.centroids
    if state.best is not None:
        arrays |= {f"best_{name}": value for name, value in state.best._asdict().items()}
    with artefact.replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load_state(path: Path) -> State | None:
    """The state that `save_state` wrote, or None when there is none."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        best = None
        if "best_centroids" in stored:
            objective = stored["best_objective"].tolist()
            best = Clusters(stored["best_centroids"], stored["best_sizes"], objective)
        return State(
            int(stored["restart"]),
            tuple(stored["objective"].tolist()),
            stored.get("centroids"),
            best,
        )
