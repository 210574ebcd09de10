"""Whether images show their class: the share whose nearest class mean, in feature space, is that of their own class.

Read next: glotok_ray/evaluation/sample_metrics.py
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped
from numpy import ndarray

from glotok_ray.metrics.blocks import recut

_ROWS_PER_BLOCK = 1024


class ClassMeans(NamedTuple):
    """The mean feature vector of each class, and how many vectors it is of."""

    means: Float[ndarray, "classes d"]
    counts: Int[ndarray, " classes"]


def class_means(
    features: Iterable[Shaped[ndarray, "b d"]], labels: Integer[ndarray, " n"], num_classes: int
) -> ClassMeans:
    """Float64 means of vectors that come in blocks; raises ValueError for a label outside [0, num_classes), a class
    without a vector and features that are not finite.
    """
    check_labels(labels, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"labels: class {np.argmin(counts)} has no vector, so it has no mean")
    sums, start = np.zeros((num_classes, 1)), 0
    for block in features:
        _check_finite(block)
        if start == 0:
            sums = np.zeros((num_classes, block.shape[1]))
        # Vector by vector, so that no digit depends on where a block ends.
        for label, vector in zip(labels[start : start + len(block)], block, strict=True):
            sums[label] += vector
        start += len(block)
    return ClassMeans(sums / counts[:, None], counts)


def check_labels(labels: Integer[ndarray, " n"], num_classes: int) -> None:
    """Raise ValueError for a label outside [0, num_classes)."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}: must be in [0, {num_classes})"
        )


def most_frequent_share(labels: Integer[ndarray, " n"]) -> float:
    """Share of the most frequent label, in (0, 1]: what who always names that class is right in, and the most that a
    guess which looks at no image reaches. It is 1 / number of classes where all are equally frequent.
    """
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def own_class_share(
    features: Iterable[Shaped[ndarray, "b d"]],
    labels: Integer[ndarray, " n"],
    classes: ClassMeans,
) -> float:
    """Share of vectors that are nearest, by the Euclidean distance, to the mean of their label's class, in [0, 1].

    The vectors are none of those that the means are of; `most_frequent_share` tells what to compare it with.
    """
    return _share(features, labels, classes, own_factor=np.ones(len(classes.counts)))


def own_class_share_left_out(
    features: Iterable[Shaped[ndarray, "b d"]],
    labels: Integer[ndarray, " n"],
    classes: ClassMeans,
) -> float:
    """As `own_class_share`, for the very vectors that the means are of: each is compared with a mean of its own class
    that leaves it out. Raises ValueError for a class of a single vector.
    """
    if (classes.counts < 2).any():
        raise ValueError(
            f"labels: class {np.argmin(classes.counts)} has 1 vector, and none is left without it"
        )
    # x - (n m - x) / (n - 1) = (x - m) n / (n - 1)
    return _share(features, labels, classes, (classes.counts / (classes.counts - 1)) ** 2)


def _share(
    features: Iterable[Shaped[ndarray, "b d"]],
    labels: Integer[ndarray, " n"],
    classes: ClassMeans,
    own_factor: Float[ndarray, " classes"],
) -> float:
    """`own_factor` multiplies a vector's squared distance to the mean of its own class."""
    check_labels(labels, len(classes.counts))
    centre = classes.means.mean(axis=0)  # what all have in common would cost digits
    means, correct, start = classes.means - centre, 0, 0
    lengths = np.square(means).sum(axis=1)
    for vectors in recut(features, _ROWS_PER_BLOCK):
        _check_finite(vectors)
        own = labels[start : start + len(vectors)]
        block = np.asarray(vectors, np.float64) - centre
        squared = np.square(block).sum(axis=1)[:, None] - 2 * block @ means.T + lengths
        rows = np.arange(len(block))
        squared[rows, own] *= own_factor[own]
        correct += int((squared.argmin(axis=1) == own).sum())
        start += len(block)
    return correct / start


def _check_finite(features: Shaped[ndarray, "b d"]) -> None:
    if not np.isfinite(features).all():
        raise ValueError("features: hold values that are not finite; check the feature network")
