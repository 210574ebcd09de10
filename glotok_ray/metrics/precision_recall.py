"""Precision and recall of samples by balls around features (Kynkaanniemi et al., 2019), as ADM's evaluator has them.

A ball around a feature reaches to its k-th neighbour in its own set. Precision is the share of samples in a ball of the
reference, recall the share of the reference in a ball of the samples; the sets may differ in size.
Read next: glotok_ray/metrics/nearest.py
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from glotok_ray.metrics.feature_rows import FeatureRows, blocks, check_pair

NEIGHBOURS = 3
"""ADM's and torch-fidelity's k."""
# A block of distances has 64 MiB in fp32.
_ROWS = 4096


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float
    recall: float


def precision_recall(
    samples: FeatureRows, reference: FeatureRows, *, neighbours: int = NEIGHBOURS, rows: int = _ROWS
) -> PrecisionRecall:
    """Both shares, from fp32 features (n, d) and (m, d) of which two blocks of `rows` are in memory at a time.

    Raises ValueError for sets without a k-th neighbour, other widths, and values that are not finite.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours = {neighbours}: must be at least 1")
    check_pair(samples, reference, at_least=neighbours + 1)
    precision = covered(samples, reference, ball_radii(reference, neighbours, rows=rows), rows=rows)
    recall = covered(reference, samples, ball_radii(samples, neighbours, rows=rows), rows=rows)
    return PrecisionRecall(float(precision.mean()), float(recall.mean()))


def ball_radii(
    features: FeatureRows, neighbours: int = NEIGHBOURS, *, rows: int = _ROWS
) -> Float32[ndarray, " n"]:
    """The squared distance of each feature to its k-th neighbour; the feature itself, the nearest, is not counted."""
    radii = np.empty(features.shape[0], np.float32)
    for start, block in blocks(features, rows, np.float32):
        # Each one's smallest distances so far, itself among them.
        least = np.full((len(block), neighbours + 1), np.inf, np.float32)
        for _, distances in _distances(block, features, rows):
            candidates = np.concatenate([least, distances], axis=1)
            least = np.partition(candidates, neighbours, axis=1)[:, : neighbours + 1]
        radii[start : start + len(block)] = least.max(axis=1)
    return radii


def covered(
    features: FeatureRows,
    centres: FeatureRows,
    radii: Float32[ndarray, " m"],
    *,
    rows: int = _ROWS,
) -> Bool[ndarray, " n"]:
    """Whether each feature lies in one ball at least; `radii` are those of `centres`, squared."""
    inside = np.zeros(features.shape[0], bool)
    for start, block in blocks(features, rows, np.float32):
        found = inside[start : start + len(block)]
        for first, distances in _distances(block, centres, rows):
            found |= (distances <= radii[first : first + distances.shape[1]]).any(axis=1)
    return inside


def _distances(
    block: Float32[ndarray, "b d"], others: FeatureRows, rows: int
) -> Iterator[tuple[int, Float32[ndarray, "b m"]]]:
    """Squared distances to each block of `others`, and the number of its first row. As ADM has them: a difference of
    squares in fp32, clipped at 0.
    """
    squares = np.square(block).sum(axis=1)[:, np.newaxis]
    for first, part in blocks(others, rows, np.float32):
        distances = block @ part.T
        distances *= -2
        distances += squares
        distances += np.square(part).sum(axis=1)
        yield first, np.maximum(distances, 0, out=distances)
