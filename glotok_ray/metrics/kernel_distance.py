"""Kernel Inception Distance: the unbiased squared maximum mean discrepancy under a cubic kernel, over random subsets
(Binkowski et al., 2018).

Subsets are those that torch-fidelity draws for the same numbers of images. Read next:
glotok_ray/metrics/inception_score.py
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from glotok_ray.metrics.feature_rows import FeatureRows, check_pair, finite

NUM_SUBSETS, SUBSET_SIZE = 100, 1000
"""torch-fidelity's, as is the seed."""
SUBSET_SEED = 2020


class KernelDistance(NamedTuple):
    """Over the subsets; the deviation has divisor `num_subsets`. The mean of equal distributions is 0, so a value
    slightly below it is right.
    """

    mean: float
    standard_deviation: float


def kernel_distance(
    features: FeatureRows,
    reference: FeatureRows,
    *,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SUBSET_SEED,
) -> KernelDistance:
    """KID of two sets of features (n, d), of which the rows of one subset are in memory at a time, in float64.

    Raises ValueError for sets smaller than a subset, other widths, and values that are not finite.
    """
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(
            f"num_subsets = {num_subsets}, subset_size = {subset_size}: must be at least 1 and 2"
        )
    check_pair(features, reference, at_least=subset_size)
    draws = np.random.RandomState(seed)
    distances = np.empty(num_subsets)
    for index in range(num_subsets):
        # Both draws of a subset come from one stream, in this order. Sorted, rows are read from a disk in one sweep.
        a, b = (
            finite(
                rows[np.sort(draws.choice(rows.shape[0], subset_size, replace=False))], np.float64
            )
            for rows in (features, reference)
        )
        distances[index] = squared_discrepancy(a, b)
    return KernelDistance(float(distances.mean()), float(distances.std()))


def squared_discrepancy(a: Float[ndarray, "m d"], b: Float[ndarray, "m d"]) -> float:
    """The unbiased estimate from two samples of equal size: pairs of a row with itself are left out within a sample."""
    m = len(a)
    within = sum(float(_kernel(x, x).sum() - _self_kernel(x).sum()) for x in (a, b))
    return within / (m * (m - 1)) - 2 * float(_kernel(a, b).mean())


def _kernel(a: Float[ndarray, "m d"], b: Float[ndarray, "n d"]) -> Float[ndarray, "m n"]:
    """(x.y / d + 1)^3 of all pairs."""
    return _cubed(a @ b.T / a.shape[1] + 1)


def _self_kernel(a: Float[ndarray, "m d"]) -> Float[ndarray, " m"]:
    return _cubed((a * a).sum(axis=1) / a.shape[1] + 1)


def _cubed(values: ndarray) -> ndarray:
    # numpy's power takes far longer.
    return values * values * values
