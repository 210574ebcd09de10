"""Inception Score from class scores, in sums that add up over blocks of images (Salimans et al., 2016).

The score is exp of the mean divergence of an image's class probabilities from those of all images, per split of the
images, averaged over splits. Read next: glotok_ray/metrics/frechet.py
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

SplitOrder = Literal["contiguous", "shuffled"]
"""ADM's, by the number of an image, or torch-fidelity's, by a seeded permutation."""
SHUFFLE_SEED = 2020
"""torch-fidelity's."""


class InceptionScore(NamedTuple):
    """Over the splits; the deviation has divisor `num_splits`."""

    mean: float
    standard_deviation: float


def split_numbers(
    num_images: int, num_splits: int, *, order: SplitOrder = "contiguous", seed: int = SHUFFLE_SEED
) -> Int[ndarray, " num_images"]:
    """The split of every image, by its number.

    With 50,000 images in 10 splits, "contiguous" is what ADM does; it takes 5,000 images per split whatever their
    number. "shuffled" is what torch-fidelity does by default. Raises ValueError where a split would be empty.
    """
    if not 1 <= num_splits <= num_images:
        raise ValueError(
            f"num_splits = {num_splits}: must lie between 1 and the number of images, {num_images}"
        )
    bounds = np.arange(1, num_splits + 1) * num_images // num_splits
    splits = np.searchsorted(bounds, np.arange(num_images), side="right")
    if order == "contiguous":
        return splits
    if order != "shuffled":
        raise ValueError(f'order = {order!r}: must be "contiguous" or "shuffled"')
    shuffled = np.empty_like(splits)
    # torch-fidelity cuts the shuffled images: place i holds image permutation[i].
    shuffled[np.random.RandomState(seed).permutation(num_images)] = splits
    return shuffled


class InceptionSums(NamedTuple):
    """What the score needs of some images, per split; sums of blocks add up."""

    counts: Int[ndarray, " splits"]
    probabilities: Float[ndarray, "splits classes"]
    """Sums of p over images."""
    negative_entropies: Float[ndarray, " splits"]
    """Sums of sum_c p_c log p_c over images."""

    @classmethod
    def empty(cls, num_splits: int, num_classes: int) -> "InceptionSums":
        """No images yet; the identity of `merge`."""
        return cls(
            np.zeros(num_splits, np.int64),
            np.zeros((num_splits, num_classes)),
            np.zeros(num_splits),
        )

    @classmethod
    def of(
        cls, logits: Shaped[ndarray, "n classes"], splits: Int[ndarray, " n"], num_splits: int
    ) -> "InceptionSums":
        """The sums of a block, whose images belong to `splits`, in float64.

        Raises ValueError for class scores that are not finite, splits that do not exist, and other numbers of images.
        """
        if len(logits) != len(splits):
            raise ValueError(f"splits: {len(splits)} numbers for {len(logits)} images")
        membership = np.arange(num_splits)[:, np.newaxis] == splits
        if not membership.any(axis=0).all():
            raise ValueError(
                f"splits: must lie between 0 and {num_splits - 1}, found {splits.max()}"
            )
        log_probabilities = _log_softmax(logits)
        probabilities = np.exp(log_probabilities)
        weights = membership.astype(np.float64)
        return cls(
            membership.sum(axis=1),
            weights @ probabilities,
            weights @ (probabilities * log_probabilities).sum(axis=1),
        )

    def merge(self, other: "InceptionSums") -> "InceptionSums":
        """The sums of both sets of images. Rounding depends on the order, so merge blocks in the order of images."""
        return InceptionSums(
            self.counts + other.counts,
            self.probabilities + other.probabilities,
            self.negative_entropies + other.negative_entropies,
        )

    def score(self) -> InceptionScore:
        """Raises ValueError for a split without images."""
        if (self.counts == 0).any():
            raise ValueError(
                f"split {int(np.argmin(self.counts))} of {len(self.counts)} holds no image: merge all blocks first"
            )
        means = self.probabilities / self.counts[:, np.newaxis]
        # A class that no image has contributes nothing: p log p goes to 0 with p.
        logarithms = np.log(means, out=np.zeros_like(means), where=means > 0)
        divergences = self.negative_entropies / self.counts - (means * logarithms).sum(axis=1)
        scores = np.exp(divergences)
        return InceptionScore(float(scores.mean()), float(scores.std()))


def inception_score(
    logits: Shaped[ndarray, "n classes"],
    *,
    num_splits: int = 10,
    order: SplitOrder = "contiguous",
    seed: int = SHUFFLE_SEED,
) -> InceptionScore:
    """The score of a set of images at once."""
    splits = split_numbers(len(logits), num_splits, order=order, seed=seed)
    return InceptionSums.of(logits, splits, num_splits).score()


def _log_softmax(logits: Shaped[ndarray, "n classes"]) -> Float[ndarray, "n classes"]:
    values = np.asarray(logits, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("logits: hold values that are not finite; check the feature network")
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))
