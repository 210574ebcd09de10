"""Whether images show their class: the share whose nearest class mean, in feature space, is that of their own class.

Read next: glotok_ray/evaluation/sample_metrics.py
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped
from numpy import ndarray

_ROWS_PER_BLOCK = 1024


class ClassMeans(NamedTuple):
    """The mean feature vector of each class, and how many vectors it is of."""

    means: Float[ndarray, "classes d"]
    counts: Int[ndarray, " classes"]


def class_means(
    features: Shaped[ndarray, "n d"], labels: Integer[ndarray, " n"], num_classes: int
) -> ClassMeans:
    """Float64 means; raises ValueError for a label outside [0, num_classes), a class without a vector and features that
    are not finite.
    """
    check_labels(labels, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"labels: class {np.argmin(counts)} has no vector, so it has no mean")
    if not np.isfinite(features).all():
        raise ValueError("features: hold values that are not finite; check the feature network")
    members = (features[labels == label] for label in range(num_classes))
    means = np.stack([np.mean(part, axis=0, dtype=np.float64) for part in members])
    return ClassMeans(means, counts)


def check_labels(labels: Integer[ndarray, " n"], num_classes: int) -> None:
    """Raise ValueError for a label outside [0, num_classes)."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}: must be in [0, {num_classes})"
        )


def own_class_share(
    features: Shaped[ndarray, "n d"], labels: Integer[ndarray, " n"], classes: ClassMeans
) -> float:
    """Share of vectors that are nearest, by the Euclidean distance, to the mean of their label's class, in [0, 1].

    The vectors are none of those that the means are of; guessing classes would give 1 / number of classes.
    """
    return _share(features, labels, classes, own_factor=np.ones(len(classes.counts)))


def own_class_share_left_out(
    features: Shaped[ndarray, "n d"], labels: Integer[ndarray, " n"], classes: ClassMeans
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
    features: ndarray, labels: ndarray, classes: ClassMeans, own_factor: Float[ndarray, " classes"]
) -> float:
    """`own_factor` multiplies a vector's squared distance to the mean of its own class."""
    if not np.isfinite(features).all():
        raise ValueError("features: hold values that are not finite; check the feature network")
    check_labels(labels, len(classes.counts))
    centre = classes.means.mean(axis=0)  # what all have in common would cost digits
    means, correct = classes.means - centre, 0
    lengths = np.square(means).sum(axis=1)
    for start in range(0, len(features), _ROWS_PER_BLOCK):
        own = labels[start : start + _ROWS_PER_BLOCK]
        block = np.asarray(features[start : start + _ROWS_PER_BLOCK], np.float64) - centre
        squared = np.square(block).sum(axis=1)[:, None] - 2 * block @ means.T + lengths
        rows = np.arange(len(block))
        squared[rows, own] *= own_factor[own]
        correct += int((squared.argmin(axis=1) == own).sum())
    return correct / len(features)
