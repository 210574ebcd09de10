"""Whether images were copied: each one's distance to the nearest of a set, in feature space.

Read next: glotok_ray/evaluation/sample_metrics.py
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

from glotok_ray.metrics.blocks import recut

# A block of products has 32 MiB in float64.
_QUERIES_PER_BLOCK, _REFERENCES_PER_BLOCK = 1024, 4096
# All references are read once for so many queries, of which and their nearest ones 1280 numbers each take 60 MiB.
_QUERIES_PER_PASS = 4096


def nearest_distances(
    queries: Iterable[Shaped[ndarray, "b d"]], references: Iterable[Shaped[ndarray, "c d"]]
) -> Float[ndarray, " n"]:
    """The Euclidean distance of each query to the nearest reference; exactly 0 for a copy.

    Both come in blocks, the references again for every 4096 queries, so memory grows with neither. Raises ValueError
    without a reference, for different widths and for features that are not finite.
    """
    centre = _centre(references)
    found = []
    for group in recut(queries, _QUERIES_PER_PASS):
        _check("queries", group)
        if group.shape[1] != len(centre):
            raise ValueError(f"feature widths differ: {group.shape[1]} and {len(centre)}")
        found.append(_distances(group, references, centre))
    return np.concatenate(found)


def _centre(references: Iterable[Shaped[ndarray, "c d"]]) -> Float[ndarray, " d"]:
    """The mean of the references: what all have in common would cost digits."""
    total, count = np.zeros(0), 0
    for block in recut(references, _REFERENCES_PER_BLOCK):
        _check("references", block)
        total = block.sum(axis=0, dtype=np.float64) + (total if count else 0)
        count += len(block)
    if count == 0:
        raise ValueError("references: there are none, so that nothing is nearest")
    return total / count


def _check(name: str, values: ndarray) -> None:
    if values.ndim != 2:
        raise ValueError(f"{name} have blocks of shape {values.shape}: must be (b, d)")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} hold values that are not finite; check the feature network")


def _distances(
    group: Shaped[ndarray, "g d"],
    references: Iterable[Shaped[ndarray, "c d"]],
    centre: Float[ndarray, " d"],
) -> Float[ndarray, " g"]:
    """The distances of queries that are held at once."""
    best = np.full(len(group), np.inf)
    nearest = np.empty(group.shape, np.float64)
    for references_block in recut(references, _REFERENCES_PER_BLOCK):
        part = np.asarray(references_block, np.float64)
        centred = part - centre
        lengths = np.square(centred).sum(axis=1)
        for start in range(0, len(group), _QUERIES_PER_BLOCK):
            rows = slice(start, start + _QUERIES_PER_BLOCK)
            block = np.asarray(group[rows], np.float64) - centre
            # Less the query's own squared length, which all references share.
            squared = lengths - 2 * block @ centred.T
            place = squared.argmin(axis=1)
            least = squared[np.arange(len(block)), place]
            closer = least < best[rows]
            best[rows][closer] = least[closer]
            nearest[rows][closer] = part[place[closer]]
    # From the pair itself: of a difference of squares, rounding would leave a copy some distance.
    return np.linalg.norm(np.asarray(group, np.float64) - nearest, axis=1)
