"""A linear probe: how well a linear classifier tells the class of an image from its codes alone.

The classifier is multinomial logistic regression with an L2 penalty, fitted on training images and tested on others.
Read next: glotok_ray/evaluation/probe_metrics.py
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from numpy import ndarray

from glotok_ray.metrics.class_means import check_labels

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_MOST_STEPS = 1000
_ROWS_PER_BLOCK = 4096

CodeBlocks = Iterable[Integer[ndarray, "b positions"]]


class UndefinedProbeError(ValueError):
    """There is no classifier to fit; the text says why."""


class Probe(NamedTuple):
    """What a linear classifier reached."""

    accuracy: float
    """Share of test images whose class it names, in [0, 1]."""
    standard_error: float
    """Of the accuracy, over test images; where it is 0 or 1, half the width of Wilson's interval of one standard error,
    since the estimate of the deviation would be 0.
    """
    converged: bool
    """Whether the fit ended by itself, and not at its last step."""


class Labelled(NamedTuple):
    """One row of features per image, and the images' classes."""

    features: Any
    """An array, or a sparse matrix, of (n, d)."""
    labels: Integer[ndarray, " n"]


def pooled_vectors(codes: CodeBlocks, vectors: Float[ndarray, "k d"]) -> Float[ndarray, "n d"]:
    """The mean of each image's code vectors."""
    return np.concatenate([vectors[block].mean(axis=1) for block in codes])


def standardised(
    training: Float[ndarray, "n d"], others: Float[ndarray, "m d"]
) -> tuple[ndarray, ndarray]:
    """Both with the training rows' mean of 0 and deviation of 1; features without spread become 0."""
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    # Equal values differ by rounding, which must not be blown up.
    scale = np.where(deviation > 1e-12 * (1 + np.abs(mean)), deviation, np.inf)
    return (training - mean) / scale, (others - mean) / scale


def code_histograms(codes: CodeBlocks, num_codes: int) -> "csr_matrix":
    """Each image's square roots of the shares of its codes, scaled so that the mean square of a row's features is 1."""
    from scipy.sparse import csr_matrix, vstack

    parts = []
    for block in codes:
        rows = np.repeat(np.arange(len(block)), block.shape[1])
        places = (rows, block.reshape(-1).astype(np.int64))
        counts = csr_matrix((np.ones(block.size), places), shape=(len(block), num_codes))
        counts.sum_duplicates()
        parts.append((counts * (num_codes / block.shape[1])).sqrt())
    return csr_matrix(vstack(parts))


def linear_probe(training: Labelled, test: Labelled, *, num_classes: int, l2: float) -> Probe:
    """Fit on `training` and name the classes of `test`; `l2` weighs half the squared weights against the mean loss of
    an image.

    The same input gives the same digits on one machine. Raises UndefinedProbeError where the training images are of
    less than two classes, ValueError for labels outside [0, num_classes).
    """
    for labels in (training.labels, test.labels):
        check_labels(labels, num_classes)
    if len(np.unique(training.labels)) < 2:
        raise UndefinedProbeError("the training images are of less than two classes")
    # Imported where it is used, as all of scikit-learn: a command's --help should be quick.
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    count = len(training.labels)
    classifier = LogisticRegression(C=1 / (l2 * count), max_iter=_MOST_STEPS)
    # Sums over several threads differ in the last digits from run to run.
    with threadpool_limits(1):
        _fit(classifier, training)
        hits = _hits(classifier, test)
    accuracy = float(hits.mean())
    return Probe(
        accuracy, _standard_error(accuracy, len(hits)), int(classifier.n_iter_.max()) < _MOST_STEPS
    )


def _standard_error(accuracy: float, count: int) -> float:
    if accuracy in (0, 1):
        return 1 / (2 * (count + 1))
    return float(np.sqrt(accuracy * (1 - accuracy) / count))


def _fit(classifier: Any, training: Labelled) -> None:
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # The answer says so itself.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(training.features, training.labels)


def _hits(classifier: Any, test: Labelled) -> Int[ndarray, " n"]:
    """1 for each image whose class is named; block by block, since an image has a number per class."""
    found = [
        classifier.predict(test.features[start : start + _ROWS_PER_BLOCK])
        for start in range(0, len(test.labels), _ROWS_PER_BLOCK)
    ]
    return (np.concatenate(found) == test.labels).astype(np.int64)
