"""The teacher's centroids and the fine histogram of their cosines (paper Eqs. 4-6).

`TeacherHistogram.distribution` is P_t of Eq. 7, re-binned for any bin count and alpha.
Read next: glotok_ray/losses/relation.py
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from glotok_ray.config.losses import RelationConfig
from glotok_ray.config.tokenizer import CodebookConfig
from glotok_ray.losses import relation as relation_loss
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import writing
from glotok_ray.storage.weights import check_finite
from glotok_ray.teacher.preparation import principal_axes

logger = logging.getLogger(__name__)

_REBUILD = "build the teacher again with --fresh"
_OTHER = f"the files are of different teachers: restore them, or {_REBUILD}"

CENTROIDS_FILE = "teacher.safetensors"
FACTS_FILE = "teacher.json"
# Largest error of Eq. 6 per pair that re-binning may make, where the kernel's peak is 1.
_LARGEST_ERROR = 1e-4
# Few centroids of the student's own width lie a little below the floor of many codes, and cost next to nothing.
_FLOOR_SLACK = 0.02
# Widths of codebooks in use, for which teacher.json tells whether they can reach the teacher.
_STUDENT_WIDTHS = (4, 8, 16, 32, 64)


# What is read of teacher.json.
_FIELDS = {
    "fine_bins": int,
    "fine_histogram": list,
    "num_clusters": int,
    "width": int,
    "provenance": dict,
}
# Of the pairs that the stored histogram counts, and of the mean cosine that it tells (fp32 sums over many pairs).
_LARGEST_SUM_ERROR, _LARGEST_MEAN_ERROR = 1e-3, 1e-3


class SimilarityFacts(NamedTuple):
    """Mean and standard deviation of the cosine over pairs i < j."""

    mean: float
    std: float


class FloorCheck(NamedTuple):
    """A student's codebook held against a teacher."""

    width: int
    size: int
    mean: float
    std: float
    smallest_std: float
    """No codebook of this width and size has cosines with this mean and a std below it."""
    reachable: bool


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

        Raises ValueError when the stored nodes are too few for so sharp a kernel.
        """
        nodes = len(self.fine_histogram) - 1
        needed = math.ceil(math.sqrt(relation.sharpness / _LARGEST_ERROR))
        if nodes < needed:
            raise ValueError(
                f"relation.alpha = {relation.sharpness:.4g} ({relation.num_bins} bins): the teacher's "
                f"{nodes} stored intervals would blur so sharp a kernel; rebuild it with --fine-bins "
                f"{needed} or more, or lower relation.alpha"
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

    def projected(self, width: int) -> "TeacherHistogram":
        """The teacher on the leading `width` principal axes of its unit centroids, so that a student of
        that width can reach it.

        Raises ValueError when `width` exceeds the centroids' own.
        """
        unit = relation_loss.unit_rows(self.centroids)
        axes, kept = principal_axes(unit.numpy(), width)
        facts = {**self.provenance, "projected_to": width, "projection_kept_share": kept}
        return build_histogram(
            unit @ torch.from_numpy(axes),
            fine_bins=len(self.fine_histogram) - 1,
            provenance=facts,
        )

    def floor_check(self, *, width: int, size: int) -> FloorCheck:
        """Compare the teacher's spread with the least that `size` codes of `width` dimensions can
        have at its mean.
        """
        mean, std = self.similarity()
        smallest = narrowest_std(mean, width=width, size=size)
        reachable = std >= (1 - _FLOOR_SLACK) * smallest - 1e-6
        return FloorCheck(width, size, mean, std, smallest, reachable)

    def reachable(self, *, width: int, size: int) -> bool:
        """Whether `size` unit codes of `width` dimensions can spread as narrowly; warns if not.

        Of a teacher out of reach, the relation loss alone is lowest with duplicate codes.
        """
        check = self.floor_check(width=width, size=size)
        if not check.reachable:
            logger.warning(
                "teacher cosines have mean %.3f and std %.3f, but %d codes of width %d cannot have a "
                "std below %.3f at that mean: relation learning alone would favour duplicate codes. "
                "Keep loss.relation_weight small and watch codebook usage; or train with "
                "--loss.relation.project-teacher; or build the teacher with --project-width %d",
                check.mean,
                check.std,
                size,
                width,
                check.smallest_std,
                width,
            )
        return check.reachable


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
    fine = relation_loss.fine_histogram(centroids, num_nodes=fine_bins)
    return TeacherHistogram(centroids=centroids, fine_histogram=fine, provenance=provenance)


def save_teacher(folder: Path, teacher: TeacherHistogram) -> None:
    """Write teacher.safetensors and teacher.json; the caller writes the manifest."""
    with writing(folder / CENTROIDS_FILE) as local:
        save_file({"centroids": teacher.centroids}, str(local))
    facts, student = teacher.similarity(), CodebookConfig()
    artefact.write_json(
        folder / FACTS_FILE,
        {
            "fine_bins": len(teacher.fine_histogram) - 1,
            "fine_histogram": teacher.fine_histogram.tolist(),
            "num_clusters": teacher.centroids.shape[0],
            "width": teacher.centroids.shape[1],
            "similarity_mean": facts.mean,
            "similarity_std": facts.std,
            "floor_checks": [
                teacher.floor_check(width=width, size=student.size)._asdict()
                for width in sorted({student.width, *_STUDENT_WIDTHS})
            ],
            "versions": artefact.versions(),
            "provenance": teacher.provenance,
        },
    )


def load_teacher(folder: Path) -> TeacherHistogram:
    """The teacher of a finished folder; raises ArtefactError when it is missing or damaged."""
    artefact.read_manifest(folder, "teacher")
    facts, centroids = _read_facts(folder / FACTS_FILE), _read_centroids(folder / CENTROIDS_FILE)
    fine = torch.tensor(facts["fine_histogram"], dtype=torch.float64)
    check_finite({"centroids": centroids}, folder / CENTROIDS_FILE, _REBUILD)
    check_finite({"fine_histogram": fine}, folder / FACTS_FILE, _REBUILD)
    teacher = TeacherHistogram(
        centroids=centroids,
        fine_histogram=fine,
        provenance=facts["provenance"],
    )
    _check_facts(folder, teacher, facts)
    return teacher


def _read_facts(path: Path) -> dict[str, Any]:
    """teacher.json, whose fields are there and of their types; raises ArtefactError that names the one that is not."""
    facts = artefact.read_json(path)
    if not isinstance(facts, dict):
        raise ArtefactError(f"{path}: must hold a JSON object; {_REBUILD}")
    for name, kind in _FIELDS.items():
        if name not in facts:
            raise ArtefactError(
                f"{path}: lacks the field {name!r}; restore the file, or {_REBUILD}"
            )
        if not isinstance(facts[name], kind):
            raise ArtefactError(
                f"{path}: {name} is of type {type(facts[name]).__name__}: must be {kind.__name__}; restore the file, "
                f"or {_REBUILD}"
            )
    # Truth values are whole numbers to Python.
    if not all(type(number) in (int, float) for number in facts["fine_histogram"]):
        raise ArtefactError(
            f"{path}: fine_histogram holds other values than numbers; restore the file, or {_REBUILD}"
        )
    return facts


def _read_centroids(path: Path) -> Tensor:
    try:
        centroids = load_file(str(at_hand(path)))["centroids"]
    except (SafetensorError, KeyError) as error:
        raise ArtefactError(
            f"{path}: holds no tensor 'centroids' that can be read ({error}); restore the file, or {_REBUILD}"
        ) from error
    if centroids.ndim != 2 or len(centroids) < 2 or not centroids.is_floating_point():
        raise ArtefactError(
            f"{path}: centroids are {centroids.dtype} of shape {tuple(centroids.shape)}: must be floating-point "
            f"numbers (2 or more, width); restore the file, or {_REBUILD}"
        )
    return centroids


def _check_facts(folder: Path, teacher: TeacherHistogram, facts: Mapping[str, Any]) -> None:
    """Raise ArtefactError when teacher.json is not about these centroids: both files decide what is learned."""
    count, width = teacher.centroids.shape
    nodes = len(teacher.fine_histogram)
    found = {"num_clusters": count, "width": width, "fine_bins": nodes - 1}
    for name, value in found.items():
        if facts[name] != value:
            raise ArtefactError(
                f"{folder / FACTS_FILE}: {name} = {facts[name]}, but there are {value}; {_OTHER}"
            )
    pairs, total = count * (count - 1) / 2, float(teacher.fine_histogram.sum())
    # Not finite sums compare as false.
    if not abs(total - pairs) <= _LARGEST_SUM_ERROR * pairs:
        raise ArtefactError(
            f"{folder / FACTS_FILE}: fine_histogram counts {total:.6g} pairs, and {count} centroids have {pairs:.6g}; "
            f"{_OTHER}"
        )
    at = torch.linspace(-1, 1, nodes, dtype=torch.float64)
    mean = float(teacher.fine_histogram @ at) / pairs
    if abs(mean - teacher.similarity().mean) > _LARGEST_MEAN_ERROR:
        raise ArtefactError(
            f"{folder / FACTS_FILE}: fine_histogram has the mean cosine {mean:.4f}, and the centroids have "
            f"{teacher.similarity().mean:.4f}; {_OTHER}"
        )
