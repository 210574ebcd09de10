"""How a codebook is used, from the count of each code over a whole evaluation set (paper section
4.3).

Counts are integers that add up over images, blocks and workers, so they are the accumulator.
Read next: glotok_ray/metrics/uniformity.py
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, Shaped
from numpy import ndarray
from torch import Tensor

_ROWS_PER_BLOCK = 1024


class CodebookUse(NamedTuple):
    """Metrics of one codebook over one set of tokens."""

    usage: float
    """Share of codes that occur at least once, in [0, 1]."""
    perplexity: float
    """exp of the entropy: how many equally used codes would have it, in [1, n]."""
    entropy_bits: float
    """Entropy of the code distribution, bits."""
    normalized_entropy: float
    """Entropy over its ceiling log2(n), in [0, 1]."""
    gini: float
    """Gini coefficient of the counts: 0 for equal use, (n - 1) / n for one code."""
    dead_codes: int
    """Codes that never occur."""


def check_whole(codes: Integer[ndarray, "..."]) -> None:
    """Raise ValueError for codes of another dtype than an integer's: a conversion would round them."""
    if not np.issubdtype(np.asarray(codes).dtype, np.integer):
        raise ValueError(f"codes are {np.asarray(codes).dtype}: must be whole numbers")


def count_blocks(codes: Iterable[Integer[ndarray, "b ..."]], num_codes: int) -> Int[ndarray, " n"]:
    """`count_codes` of codes that come in blocks."""
    counts = np.zeros(num_codes, np.int64)
    for block in codes:
        counts += count_codes(block, num_codes)
    return counts


def count_codes(codes: Integer[ndarray, "..."], num_codes: int) -> Int[ndarray, " n"]:
    """Occurrences of each code as int64; raises ValueError for an index outside [0, num_codes) and for numbers that are
    not whole.
    """
    check_whole(codes)
    flat = np.asarray(codes).reshape(-1).astype(np.int64)
    if flat.size and (flat.min() < 0 or flat.max() >= num_codes):
        raise ValueError(
            f"codes reach from {flat.min()} to {flat.max()}: must be in [0, {num_codes})"
        )
    return np.bincount(flat, minlength=num_codes)


def codebook_use(counts: Integer[ndarray, " n"]) -> CodebookUse:
    """Usage, perplexity, entropy, Gini and dead codes; raises ValueError when nothing was
    counted.
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    if total <= 0 or counts.min() < 0:
        raise ValueError("counts must not be negative and must hold at least one token")
    shares = counts[counts > 0] / total
    entropy = float(-(shares * np.log(shares)).sum()) + 0.0
    return CodebookUse(
        usage=len(shares) / len(counts),
        perplexity=float(np.exp(entropy)),
        entropy_bits=entropy / np.log(2),
        normalized_entropy=entropy / np.log(len(counts)) if len(counts) > 1 else 1.0,
        gini=gini(counts),
        dead_codes=len(counts) - len(shares),
    )


def duplicate_fraction(
    codes: Float[Tensor, "n d"], cosine: float, lookup: Literal["cosine", "euclidean"]
) -> float:
    """Share of codes, as the look-up compares them, that have another one nearby, in [0, 1]; NaN for codes that are not
    finite.

    Nearby is a squared distance of at most 2 (1 - cosine) times a mean over all codes. For cosine look-up it is that of
    their squared lengths: of unit vectors, a cosine of at least `cosine`. For Euclidean look-up it is that of their
    squared distances from the mean code, so that neither a common scale nor a common offset changes the share.
    """
    codes = codes.detach().float()
    if lookup == "euclidean":
        # Twice, because the first mean is rounded to the offset's precision; products then lose none to the offset.
        for _ in range(2):
            codes = codes - codes.mean(dim=0)
    halves = codes.square().sum(dim=1) / 2
    near = (1 - cosine) * 2 * halves.mean()
    duplicates = torch.zeros((), device=codes.device)
    for start in range(0, len(codes), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        distances = halves[rows, None] + halves - codes[rows] @ codes.T
        # A code is no neighbour of itself.
        distances.diagonal(start).fill_(torch.inf)
        duplicates += (distances.amin(dim=1) <= near).sum()
    return float(torch.where(torch.isfinite(near), duplicates, torch.nan)) / len(codes)


def gini(values: Shaped[ndarray, " n"], weights: Integer[ndarray, " n"] | None = None) -> float:
    """Gini coefficient sum_i (2 i - n - 1) v_(i) / (n sum v), without the n / (n - 1) correction.

    `weights` repeat values: the result equals that of the expanded vector, without expanding it.
    """
    values = np.asarray(values, dtype=np.float64)
    repeats = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    values, repeats = values[order], repeats[order]
    after = np.cumsum(repeats)
    total = after[-1]
    # A value repeated w times holds the ranks before+1 .. after, whose (2 i - n - 1) average to
    # this.
    centred_rank = 2 * after - repeats - total
    return float((centred_rank * repeats * values).sum() / (total * (repeats * values).sum()))
