"""Whether images were copied: each one's distance to the nearest of a set, in feature space.

Read next: glotok_ray/evaluation/sample_metrics.py
"""

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

# A block of products has 32 MiB in float64.
_QUERIES_PER_BLOCK, _REFERENCES_PER_BLOCK = 1024, 4096


def nearest_distances(
    queries: Shaped[ndarray, "n d"], references: Shaped[ndarray, "m d"]
) -> Float[ndarray, " n"]:
    """The Euclidean distance of each query to the nearest reference; exactly 0 for a copy.

    Pairs are visited in blocks, so memory does not grow with n m. Raises ValueError without a reference, for different
    widths and for features that are not finite.
    """
    for name, values in (("queries", queries), ("references", references)):
        if values.ndim != 2 or len(values) == 0:
            raise ValueError(f"{name} has shape {values.shape}: needs (n, d) with n at least 1")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} hold values that are not finite; check the feature network")
    if queries.shape[1] != references.shape[1]:
        raise ValueError(f"feature widths differ: {queries.shape[1]} and {references.shape[1]}")
    centre = references.mean(axis=0, dtype=np.float64)  # what all have in common would cost digits
    found = np.empty(len(queries))
    for start in range(0, len(queries), _QUERIES_PER_BLOCK):
        block = np.asarray(queries[start : start + _QUERIES_PER_BLOCK], np.float64)
        # From the pair itself: of a difference of squares, rounding would leave a copy some distance.
        nearest = np.asarray(references[_nearest(block, references, centre)], np.float64)
        found[start : start + len(block)] = np.linalg.norm(block - nearest, axis=1)
    return found


def _nearest(
    block: Float[ndarray, "b d"], references: Shaped[ndarray, "m d"], centre: Float[ndarray, " d"]
) -> Int[ndarray, " b"]:
    """The place of the nearest reference of each vector of one block."""
    centred = block - centre
    best, place = np.full(len(block), np.inf), np.zeros(len(block), np.int64)
    for start in range(0, len(references), _REFERENCES_PER_BLOCK):
        part = np.asarray(references[start : start + _REFERENCES_PER_BLOCK], np.float64) - centre
        # Less the query's own squared length, which all references share.
        squared = np.square(part).sum(axis=1) - 2 * centred @ part.T
        nearest = squared.argmin(axis=1)
        least = squared[np.arange(len(block)), nearest]
        closer = least < best
        best[closer], place[closer] = least[closer], start + nearest[closer]
    return place
