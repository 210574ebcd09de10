"""Histogram relation learning: the codebook's pairwise cosines follow the teacher's (paper Eqs. 4-7, Algorithm 1).

`soft_histogram` is the paper's sum as printed. `codebook_histogram` computes the same through a fine histogram, in
memory that does not grow with the number of pairs.
Read next: glotok_ray/losses/residual.py
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from glotok_ray.config import RelationConfig

_SMALLEST_PROBABILITY = 1e-12


def pairwise_cosine(
    codes: Float[Tensor, "n d"], *, include_diagonal: bool
) -> Float[Tensor, " pairs"]:
    """Eq. 4: D, the cosines of all pairs i <= j; without the diagonal i < j. Forms the n x n
    matrix.
    """
    unit = F.normalize(codes, dim=1)
    rows, columns = torch.triu_indices(
        len(codes), len(codes), offset=0 if include_diagonal else 1, device=codes.device
    )
    return (unit @ unit.T)[rows, columns]


def histogram_bins(num_bins: int) -> Float[Tensor, " k"]:
    """Eq. 5: B_k = -1 + 2 k / (N - 1), fp64."""
    return -1 + 2 * torch.arange(num_bins, dtype=torch.float64) / (num_bins - 1)


def soft_histogram(
    similarities: Float[Tensor, " pairs"], bins: Float[Tensor, " k"], *, alpha: float
) -> Float[Tensor, " k"]:
    """Eq. 6: p_n = sum_i exp(-alpha (D_i - B_n)^2), unnormalised. Holds a pairs x k tensor: for
    small n and for proof.
    """
    return torch.exp(-alpha * (similarities[:, None] - bins.to(similarities)).square()).sum(dim=0)


def relation_loss(
    student: Float[Tensor, " k"], teacher: Float[Tensor, " k"], *, reduction: Literal["sum", "mean"]
) -> Float[Tensor, ""]:
    """Eq. 7: L_hist = KL(P_t || P_s) = sum P_t (ln P_t - ln P_s), of normalised histograms; no
    gradient into the teacher.

    The paper writes KL(log P_s || sg[P_t]), the argument order of torch's kl_div. Empty bins count
    as 1e-12, so the value stays finite. "mean" divides by k.
    """
    fixed = teacher.detach().to(student)
    ratio = (
        fixed.clamp_min(_SMALLEST_PROBABILITY).log()
        - student.clamp_min(_SMALLEST_PROBABILITY).log()
    )
    terms = fixed * ratio
    return terms.sum() if reduction == "sum" else terms.mean()


def normalize_histogram(
    histogram: Float[Tensor, " k"], normalization: Literal["sum", "l2"]
) -> Float[Tensor, " k"]:
    """Scale to total 1, or to Algorithm 1's literal Euclidean norm 1, which makes no distribution."""
    total = histogram.sum() if normalization == "sum" else torch.linalg.vector_norm(histogram)
    return histogram / total


def codebook_histogram(
    codebook: Float[Tensor, "n d"], relation: RelationConfig
) -> Float[Tensor, " k"]:
    """P_s of Eq. 7 from codebook rows, normalised and differentiable; fp32, or fp64 for an fp64
    codebook.
    """
    with torch.autocast(codebook.device.type, enabled=False):
        codes = codebook if codebook.dtype == torch.float64 else codebook.float()
        if relation.fine_bins == 0:
            similarities = pairwise_cosine(codes, include_diagonal=relation.include_diagonal)
            histogram = soft_histogram(
                similarities, histogram_bins(relation.num_bins), alpha=relation.sharpness
            )
        else:
            histogram = _PairHistogram.apply(F.normalize(codes, dim=1), relation)
        return normalize_histogram(histogram, relation.normalization).to(codes.dtype)


def fine_histogram(
    codes: Float[Tensor, "n d"], *, fine_bins: int, include_diagonal: bool, rows_per_block: int
) -> Float[Tensor, " nodes"]:
    """Counts of the pairs' cosines on `fine_bins` + 1 nodes from -1 to 1, each split linearly over
    its two neighbours; fp64.

    Only pairs i < j are visited, one block of `rows_per_block` squared cosines at a time.
    """
    unit = F.normalize(codes.detach(), dim=1)
    counts = torch.zeros(fine_bins + 1, dtype=torch.float64, device=codes.device)
    for rows, columns in _tiles(len(unit), rows_per_block):
        similarities = unit[rows] @ unit[columns].T
        if rows == columns:
            similarities = similarities[_above_diagonal(similarities)]
        position = ((similarities.flatten() + 1) * (fine_bins / 2)).clamp_(0, fine_bins)
        left = position.floor().clamp_(max=fine_bins - 1)
        moved = torch.bincount(left.long(), weights=(position - left).double(), minlength=fine_bins)
        counts[:-1] += torch.bincount(left.long(), minlength=fine_bins) - moved
        counts[1:] += moved
    if include_diagonal:
        # The cosine of a code with itself is 1, which is the last node.
        counts[-1] += len(unit)
    return counts


def rebin(fine: Float[Tensor, " nodes"], relation: RelationConfig) -> Float[Tensor, " k"]:
    """Eq. 6 from a fine histogram, unnormalised, fp64; off by at most alpha / fine_bins^2 per pair
    (3e-6 at the defaults).
    """
    return _kernel(len(fine), relation, fine.device) @ fine.double()


def smallest_reachable_std(mean: float, width: int) -> float:
    """The least standard deviation that the pairwise cosines of many unit vectors can have, given
    their mean, in `width` dimensions.

    The second moment is at least 1 / width, and with a mean m above that at least m^2 + (1 - m)^2 /
    (width - 1). A teacher below it is out of a student's reach, and L_hist alone would then favour
    duplicate codes.
    """
    if not -1 <= mean <= 1 or width < 2:
        raise ValueError(
            f"mean = {mean}, width = {width}: a mean cosine lies in [-1, 1] and width is at least 2"
        )
    if mean <= 1 / width:
        return math.sqrt(max(0.0, 1 / width - mean * mean))
    return (1 - mean) / math.sqrt(width - 1)


class _PairHistogram(torch.autograd.Function):
    """Eq. 6 over all pairs of unit vectors, forward through the fine histogram, backward through
    one scalar function.

    With g_k the gradient at bin k, the gradient at a cosine s is G'(s), G(t) = sum_k g_k exp(-alpha
    (t - B_k)^2): a function of one number, tabulated on the nodes and interpolated, instead of k
    exponentials per pair.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, relation: RelationConfig) -> Tensor:
        ctx.save_for_backward(unit)
        ctx.relation = relation
        fine = fine_histogram(
            unit,
            fine_bins=relation.fine_bins,
            include_diagonal=relation.include_diagonal,
            rows_per_block=_rows_per_block(unit),
        )
        return rebin(fine, relation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (unit,) = ctx.saved_tensors
        slope = _slope_table(gradients[0], ctx.relation).to(unit.dtype)
        gradient = torch.zeros_like(unit)
        for rows, columns in _tiles(len(unit), _rows_per_block(unit)):
            weights = _interpolate(slope, unit[rows] @ unit[columns].T)
            if rows == columns:
                # A code's cosine with itself is constant, so the diagonal has no gradient even
                # where it is counted.
                weights.mul_(_above_diagonal(weights))
            gradient[rows] += weights @ unit[columns]
            gradient[columns] += weights.T @ unit[rows]
        return gradient, None


def _tiles(length: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Row and column slices of the upper triangle's tiles; on the diagonal both are equal."""
    for top in range(0, length, size):
        for left in range(top, length, size):
            yield slice(top, min(top + size, length)), slice(left, min(left + size, length))


def _above_diagonal(square: Tensor) -> Tensor:
    return torch.ones_like(square, dtype=torch.bool).triu_(1)


def _rows_per_block(unit: Tensor) -> int:
    # A CPU gains from tiles that stay in its cache, a GPU from few launches.
    return 256 if unit.device.type == "cpu" else 4096


def _kernel(nodes: int, relation: RelationConfig, device: torch.device) -> Float[Tensor, "k nodes"]:
    offset = (
        histogram_bins(nodes).to(device) - histogram_bins(relation.num_bins).to(device)[:, None]
    )
    return torch.exp(-relation.sharpness * offset.square())


def _slope_table(
    gradient: Float[Tensor, " k"], relation: RelationConfig
) -> Float[Tensor, " nodes"]:
    nodes = relation.fine_bins + 1
    offset = (
        histogram_bins(nodes).to(gradient) - histogram_bins(relation.num_bins).to(gradient)[:, None]
    )
    slopes = -2 * relation.sharpness * offset * _kernel(nodes, relation, gradient.device)
    return gradient.double() @ slopes


def _interpolate(
    table: Float[Tensor, " nodes"], similarities: Float[Tensor, "r c"]
) -> Float[Tensor, "r c"]:
    last = len(table) - 1
    position = ((similarities + 1) * (last / 2)).clamp_(0, last)
    left = position.floor().clamp_(max=last - 1)
    index = left.int()
    return torch.lerp(table[index], table[index + 1], position - left)
