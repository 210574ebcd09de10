"""How far a codebook's cosines are from a teacher's, whatever bins and alpha the codebook was trained with.

Read next: glotok_ray/teacher/histogram.py
"""

import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.losses.relation import fine_histogram
from glotok_ray.teacher.histogram import TeacherHistogram


def cosine_distance(teacher: TeacherHistogram, codes: Float[Tensor, "n d"]) -> float:
    """Wasserstein-1 distance between the cosines of all pairs i < j of `codes` and those of the teacher's centroids, in
    units of cosine: 0 where they are distributed alike, at most 2.

    It is the area between the two cumulative distributions on the nodes of the teacher's stored fine histogram
    (thousands of intervals from -1 to 1), which neither `relation.num_bins` nor `relation.alpha` enters: trials of
    different bins are compared by it. Always against the teacher as it is stored, also where a training projects it.
    Raises ValueError for fewer than two codes, and for codes that are not finite.
    """
    if len(codes) < 2 or not bool(torch.isfinite(codes).all()):
        raise ValueError(
            f"codes of shape {tuple(codes.shape)}: must be two or more finite vectors; look for a diverged model"
        )
    return wasserstein(
        fine_histogram(codes, num_nodes=len(teacher.fine_histogram) - 1), teacher.fine_histogram
    )


def wasserstein(first: Float[Tensor, " nodes"], second: Float[Tensor, " nodes"]) -> float:
    """Wasserstein-1 distance of two histograms, each scaled to total 1, on the same even nodes from -1 to 1.

    Raises ValueError for histograms of other lengths.
    """
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"histograms of {tuple(first.shape)} and {tuple(second.shape)}: must have the same two or more nodes"
        )
    shares = [counts.double() / counts.double().sum() for counts in (first, second)]
    gap = (shares[0].cumsum(0) - shares[1].cumsum(0)).abs()
    return float(gap[:-1].sum() * 2 / (len(first) - 1))
