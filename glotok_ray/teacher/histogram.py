"""The teacher's centroids and the fine histogram of their cosines (paper Eqs. 4-6).

`TeacherHistogram.distribution` is P_t of Eq. 7, re-binned for any bin count and alpha.
Read next: glotok_ray/losses/relation.py
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from glotok_ray import artefact
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import RelationConfig
from glotok_ray.losses import relation as relation_loss

logger = logging.getLogger(__name__)

CENTROIDS_FILE = "teacher.safetensors"
FACTS_FILE = "teacher.json"
_ROWS_PER_BLOCK = 1024


class SimilarityFacts(NamedTuple):
    """Mean and standard deviation of the cosine over pairs i < j."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherHistogram:
    """Centroids, the histogram of their cosines over pairs i < j, and where they come from."""

    centroids: Float[Tensor, "clusters width"]
    fine_histogram: Float[Tensor, " nodes"]
    """Pair counts split linearly onto nodes from -1 to 1."""
    provenance: dict[str, Any]
    """Network, weights, data, sampling and clustering facts, as plain JSON types."""

    def distribution(self, relation: RelationConfig) -> Float[Tensor, " bins"]:
        """P_t of Eq. 7 for these bins, alpha, diagonal and norm; fp32, on the CPU.

        Raises ValueError for fewer than 8 stored nodes per bin, which would blur the kernel.
        """
        nodes = len(self.fine_histogram) - 1
        if nodes < 8 * relation.num_bins:
            raise ValueError(
                f"relation.num_bins = {relation.num_bins}: the teacher stores {nodes} nodes, fewer "
                f"than 8 per bin; rebuild it with --fine-bins {8 * relation.num_bins} or more"
            )
        fine = self.fine_histogram.double().clone()
        if relation.include_diagonal:
            # Each centroid's cosine with itself is 1, which is the last node.
            fine[-1] += len(self.centroids)
        histogram = relation_loss.rebin(fine, relation)
        return relation_loss.normalize_histogram(histogram, relation.normalization).float()

    def similarity(self) -> SimilarityFacts:
        """Exact mean and standard deviation of the cosine over pairs i < j."""
        return similarity_facts(self.centroids)

    def reachable(self, *, width: int, size: int) -> bool:
        """Whether `size` unit codes of `width` dimensions can spread as narrowly; warns if not.

        Of a teacher out of reach, the relation loss alone is lowest with duplicate codes.
        """
        mean, std = self.similarity()
        floor = narrowest_std(mean, width=width, size=size)
        if std >= floor:
            return True
        logger.warning(
            "teacher cosines have mean %.3f and std %.3f, but %d codes of width %d cannot have a "
            "std below %.3f at that mean: relation learning alone would favour duplicate codes. "
            "Keep loss.relation_weight small and watch codebook usage, or build the teacher with "
            "--project-width %d",
            mean,
            std,
            size,
            width,
            floor,
            width,
        )
        return False


def similarity_facts(codes: Float[Tensor, "codes width"]) -> SimilarityFacts:
    """Mean and standard deviation of the pairwise cosine, from sums that never form the pairs."""
    unit = torch.nn.functional.normalize(codes.double(), dim=1)
    count = len(unit)
    pairs = count * (count - 1)
    mean = float(unit.sum(0).square().sum() - count) / pairs
    second = float((unit.T @ unit).square().sum() - count) / pairs
    return SimilarityFacts(mean, math.sqrt(max(0.0, second - mean * mean)))


def narrowest_std(mean: float, *, width: int, size: int) -> float:
    """Lower bound on the std of the cosines of `size` unit vectors with that mean, pairs i < j.

    `smallest_reachable_std` bounds all ordered pairs, the diagonal of ones included; taking the
    diagonal out lowers the bound a little for small codebooks.
    """
    mean_with_ones = (mean * (size - 1) + 1) / size
    std_with_ones = relation_loss.smallest_reachable_std(mean_with_ones, width)
    second = (size * (std_with_ones**2 + mean_with_ones**2) - 1) / (size - 1)
    return math.sqrt(max(0.0, second - mean * mean))


def build_histogram(
    centroids: Float[Tensor, "clusters width"], *, fine_bins: int, provenance: dict[str, Any]
) -> TeacherHistogram:
    """Measure the cosines of all pairs; raises ValueError for fewer than 2 or bad centroids."""
    centroids = centroids.detach().float().contiguous().cpu()
    if centroids.ndim != 2 or len(centroids) < 2 or not bool(torch.isfinite(centroids).all()):
        raise ValueError(
            f"centroids of shape {tuple(centroids.shape)}: a teacher needs at least 2 finite "
            "vectors, shape (K, width)"
        )
    if not bool(centroids.norm(dim=1).gt(0).all()):
        raise ValueError(
            "centroids: a vector is zero and has no direction; remove it, or cluster again"
        )
    if fine_bins < 1:
        raise ValueError(
            f"fine_bins = {fine_bins}: must be at least 1 (8192 holds any usual bin count)"
        )
    fine = relation_loss.fine_histogram(
        centroids, fine_bins=fine_bins, include_diagonal=False, rows_per_block=_ROWS_PER_BLOCK
    )
    return TeacherHistogram(
        centroids=centroids, fine_histogram=fine.double(), provenance=provenance
    )


def from_centroids(path: Path, *, fine_bins: int) -> TeacherHistogram:
    """A teacher of the vectors in a file: .npy (K, width), or .safetensors with one such tensor."""
    centroids = _read_centroids(path)
    provenance = {"source": "centroids", "file": path.name, "sha256": artefact.sha256_of(path)}
    return build_histogram(centroids, fine_bins=fine_bins, provenance=provenance)


def _read_centroids(path: Path) -> Tensor:
    if not path.is_file():
        raise ArtefactError(f"{path}: no such centroid file; correct the path")
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        tensors = load_file(str(path))
    except (ValueError, OSError, SafetensorError) as error:
        raise ArtefactError(
            f"{path}: not readable as centroids ({error}); bring .npy or .safetensors"
        ) from error
    matrices = {name: value for name, value in tensors.items() if value.ndim == 2}
    if len(matrices) != 1:
        raise ArtefactError(
            f"{path}: must hold exactly one matrix (K, width), holds {sorted(matrices)}; save it "
            "alone"
        )
    return next(iter(matrices.values()))


def save_teacher(folder: Path, teacher: TeacherHistogram) -> None:
    """Write teacher.safetensors and teacher.json; the caller writes the manifest."""
    save_file({"centroids": teacher.centroids}, str(folder / CENTROIDS_FILE))
    facts = teacher.similarity()
    artefact.write_json(
        folder / FACTS_FILE,
        {
            "fine_bins": len(teacher.fine_histogram) - 1,
            "fine_histogram": teacher.fine_histogram.tolist(),
            "num_clusters": teacher.centroids.shape[0],
            "width": teacher.centroids.shape[1],
            "similarity_mean": facts.mean,
            "similarity_std": facts.std,
            "provenance": teacher.provenance,
        },
    )


def load_teacher(folder: Path) -> TeacherHistogram:
    """The teacher of a finished folder; raises ArtefactError when it is missing or damaged."""
    artefact.read_manifest(folder, "teacher")
    facts = artefact.read_json(folder / FACTS_FILE)
    return TeacherHistogram(
        centroids=load_file(str(folder / CENTROIDS_FILE))["centroids"],
        fine_histogram=torch.tensor(facts["fine_histogram"], dtype=torch.float64),
        provenance=facts["provenance"],
    )
