"""Histogram relation learning: the codebook's pairwise cosines follow the teacher's (paper Eqs. 4-7, Algorithm 1).

`soft_histogram` is the paper's sum as printed. `codebook_histogram` computes the same through a fine histogram of
the cosines, in memory that does not grow with the number of pairs and in time that does not grow with the bins.
Read next: glotok_ray/losses/pairs/passes.py
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glotok_ray.config.losses import KERNEL_REACH, RelationConfig
from glotok_ray.losses.pairs.passes import Sharing, accumulate_gradient, pair_histogram
from glotok_ray.losses.pairs.tables import Share

_SMALLEST_PROBABILITY = 1e-12


def pairwise_cosine(
    codes: Float[Tensor, "n d"], *, include_diagonal: bool
) -> Float[Tensor, " pairs"]:
    """Eq. 4: D, the cosines of all pairs i <= j; without the diagonal i < j. Forms the n x n
    matrix.
    """
    unit = unit_rows(codes)
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
    as 1e-12, so the value stays finite. "mean" divides by k. Raises ValueError for histograms of unequal bins, which
    would be broadcast.
    """
    if student.ndim != 1 or student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}: must be histograms over the same bins"
        )
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
    codebook: Float[Tensor, "n d"], relation: RelationConfig, sharing: Sharing | None = None
) -> Float[Tensor, " k"]:
    """P_s of Eq. 7 from codebook rows, normalised and differentiable; fp32, or fp64 for an fp64
    codebook.

    With `sharing`, each worker visits its share of the pairs; all workers must call, with equal codebooks. The value
    is that of one worker alone, and the mean of the workers' gradients is its gradient. A NaN in the codebook makes
    the histogram NaN; zero rows have cosine 0 with all others. The rows' lengths do not count: Eq. 4 is about cosines,
    also of a codebook whose look-up compares distances. Raises ValueError for anything but two or more rows of
    floating-point numbers.
    """
    if codebook.ndim != 2 or len(codebook) < 2 or not codebook.is_floating_point():
        raise ValueError(
            f"codebook: {codebook.dtype} of shape {tuple(codebook.shape)}; must be two or more rows (n, d) of "
            "floating-point numbers"
        )
    with torch.autocast(codebook.device.type, enabled=False):
        codes = codebook if codebook.dtype == torch.float64 else codebook.float()
        if relation.literal:
            similarities = pairwise_cosine(codes, include_diagonal=relation.include_diagonal)
            histogram = soft_histogram(
                similarities, histogram_bins(relation.num_bins), alpha=relation.sharpness
            )
        else:
            histogram = _PairHistogram.apply(unit_rows(codes), relation, sharing)
        return normalize_histogram(histogram, relation.normalization).to(codes.dtype)


def unit_rows(codes: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows scaled to length 1 without overflow; rows of next to nothing (below 1e-38 in fp32) stay as
    they are and are moved as if their length were 1.
    """
    numbers = torch.finfo(codes.dtype)
    # The largest number stands for infinity, whose direction would be NaN.
    codes = codes.clamp(-numbers.max, numbers.max)
    scale = codes.detach().abs().amax(dim=1, keepdim=True)
    vanishing = scale < numbers.tiny
    codes = codes / torch.where(vanishing, 1, scale)
    length = torch.where(vanishing, 1, codes.square().sum(dim=1, keepdim=True)).sqrt()
    return codes / length


def fine_histogram(codes: Float[Tensor, "n d"], *, num_nodes: int) -> Float[Tensor, " nodes"]:
    """Counts of the cosines of all pairs i < j on `num_nodes` + 1 nodes from -1 to 1, each pair split
    linearly over its two neighbours; fp64.
    """
    return pair_histogram(unit_rows(codes.detach()), num_nodes, Share())


def rebin(fine: Float[Tensor, " nodes"], relation: RelationConfig) -> Float[Tensor, " k"]:
    """Eq. 6 from a fine histogram, unnormalised, fp64; off by at most alpha / M^2 per pair on M
    intervals (3e-6 at the defaults).
    """
    kernel = _kernel(relation.num_bins, len(fine), relation.sharpness, fine.device)
    return (fine.double()[kernel.nodes] * kernel.values).sum(dim=1)


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
    exponentials per pair. Cosines are computed again in the backward pass, never kept.
    """

    @staticmethod
    def forward(
        ctx: Any, unit: Tensor, relation: RelationConfig, sharing: Sharing | None
    ) -> Tensor:
        ctx.save_for_backward(unit)
        ctx.relation, ctx.share = relation, Share()
        if sharing is not None:
            ctx.share = Share(sharing.rank, sharing.world_size)
        fine = pair_histogram(unit, relation.num_nodes, ctx.share)
        if ctx.share.count > 1 and sharing is not None:
            # Counts are multiples of a power of two, so their sum is exact in any order.
            fine = sharing.all_sum(fine)
        if relation.include_diagonal:
            # A code's cosine with itself is 1, which is the last node. It has no gradient.
            fine[-1] += len(unit)
        return rebin(fine, relation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "relation loss: its gradient has no gradient of its own (create_graph=True); set "
                "relation.literal = True for second derivatives"
            )
        (unit,) = ctx.saved_tensors
        slope = _slope_table(gradients[0], ctx.relation)
        # Averaging over workers divides by their number what only adding up would give.
        return accumulate_gradient(unit, slope, ctx.share) * ctx.share.count, None, None


class _Kernel(NamedTuple):
    """Eq. 6's exp(-alpha (t - B)^2) where it counts: for every bin, the nodes around it."""

    nodes: Int[Tensor, "k w"]
    values: Float[Tensor, "k w"]


class _Slopes(NamedTuple):
    """The kernel's derivative in t, for every node at the bins around it."""

    bins: Int[Tensor, "nodes w"]
    values: Float[Tensor, "nodes w"]


@functools.lru_cache(maxsize=8)
def _kernel(num_bins: int, points: int, sharpness: float, device: torch.device) -> _Kernel:
    bins, nodes = histogram_bins(num_bins), histogram_bins(points)
    around = _neighbours(bins, points, sharpness)
    values = torch.exp(-sharpness * (nodes[around] - bins[:, None]).square())
    return _Kernel(around.to(device), values.to(device))


@functools.lru_cache(maxsize=8)
def _slopes(num_bins: int, points: int, sharpness: float, device: torch.device) -> _Slopes:
    bins, nodes = histogram_bins(num_bins), histogram_bins(points)
    around = _neighbours(nodes, num_bins, sharpness)
    offset = nodes[:, None] - bins[around]
    values = -2 * sharpness * offset * torch.exp(-sharpness * offset.square())
    return _Slopes(around.to(device), values.to(device))


def _neighbours(targets: Tensor, points: int, sharpness: float) -> Int[Tensor, "t w"]:
    """For each target the consecutive ones of `points` even points on [-1, 1] that the kernel reaches.

    Without a reach, the work would grow with bins times nodes.
    """
    spacing = 2 / (points - 1)
    width = min(points, 2 * math.ceil(math.sqrt(KERNEL_REACH / sharpness) / spacing) + 1)
    first = ((targets + 1) / spacing).round().long() - width // 2
    return first.clamp(0, points - width)[:, None] + torch.arange(width)


def _slope_table(
    gradient: Float[Tensor, " k"], relation: RelationConfig
) -> Float[Tensor, " nodes"]:
    """G' on the nodes, for the gradient at each bin; fp64."""
    slopes = _slopes(relation.num_bins, relation.num_nodes + 1, relation.sharpness, gradient.device)
    return (gradient.double()[slopes.bins] * slopes.values).sum(dim=1)
