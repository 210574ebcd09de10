"""Frechet distance between two sets of feature vectors, each taken as a Gaussian (paper section
4.1, rFID and gFID).

The number is named after its feature network: FID belongs to Inception alone. With the
EfficientNet-Lite0 that ships with this package it is FD-EffNet. Read next:
glotok_ray/stages/evaluate_images.py
"""

from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

from glotok_ray.metrics.feature_rows import FeatureRows, blocks

_ROUNDING = 1e-3
# In float64 and of Inception's width, 64 MiB.
_ROWS = 4096


class FeatureMoments(NamedTuple):
    """Count, mean and centred scatter of feature vectors; merging in any order agrees to
    rounding.
    """

    count: int
    mean: Float[ndarray, " d"]
    scatter: Float[ndarray, "d d"]

    @classmethod
    def empty(cls, width: int) -> Self:
        """No vectors yet; the identity of `merge`."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features: Shaped[ndarray, "n d"]) -> Self:
        """Moments of one block, summed in float64 around the block's own mean; raises ValueError for features that
        are not finite.
        """
        values = np.asarray(features, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("features: hold values that are not finite; check the feature network")
        if len(values) == 0:
            return cls.empty(values.shape[1])
        mean = values.mean(axis=0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    def merge(self, other: "FeatureMoments") -> "FeatureMoments":
        """Moments of both sets together (Chan's update, which a common offset does not hurt)."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return FeatureMoments(count, mean, self.scatter + other.scatter + between)

    def covariance(self) -> Float[ndarray, "d d"]:
        """Sample covariance (divisor n - 1); raises ValueError below two vectors."""
        if self.count < 2:
            raise ValueError(f"count = {self.count}: a covariance needs at least 2 vectors")
        return self.scatter / (self.count - 1)


def merged_moments(parts: Iterable[tuple[int, FeatureMoments]]) -> FeatureMoments:
    """The moments of all blocks together, from each block's number and moments in rising order: the same digits however
    the blocks came about.

    One block is in memory at a time; each costs one sum of matrices, and between blocks only means count, in one
    product at the end. Raises ValueError for no blocks, numbers that do not rise, and other widths.
    """
    counts, means, scatter, last = [], [], np.zeros((0, 0)), None
    for number, part in parts:
        if last is not None and number <= last:
            raise ValueError(
                f"block {number} comes after block {last}: blocks must come once each, in rising order"
            )
        last = number
        if not counts:
            scatter = np.zeros_like(part.scatter)
        if part.scatter.shape != scatter.shape:
            raise ValueError(
                f"block {number} has width {len(part.mean)}, those before it {len(scatter)}"
            )
        counts.append(part.count)
        means.append(part.mean)
        scatter += part.scatter
    if last is None:
        raise ValueError("there are no blocks to merge")
    total = sum(counts)
    weights, stacked = np.array(counts, np.float64), np.stack(means)
    mean = weights @ stacked / max(total, 1)
    between = (stacked - mean) * np.sqrt(weights)[:, np.newaxis]
    return FeatureMoments(total, mean, scatter + between.T @ between)


def moments_of_rows(features: FeatureRows, *, rows: int = _ROWS) -> FeatureMoments:
    """The moments of stored features (n, d), of which `rows` are in memory at a time."""
    parts = (
        (start, FeatureMoments.of(block)) for start, block in blocks(features, rows, np.float64)
    )
    return merged_moments(parts) if features.shape[0] else FeatureMoments.empty(features.shape[1])


def rank_warning(count: int, width: int, what: str = "features") -> str:
    """A sentence where so few vectors leave the covariance without full rank; empty where there are enough."""
    if count > width:
        return ""
    return (
        f"{count:,} {what} of width {width:,} give a covariance of rank {max(count - 1, 0):,} at most: the distance is "
        f"biased and depends on the count; take at least {width + 1:,} images"
    )


def frechet_distance(
    mean_a: Shaped[ndarray, " d"],
    covariance_a: Shaped[ndarray, "d d"],
    mean_b: Shaped[ndarray, " d"],
    covariance_b: Shaped[ndarray, "d d"],
) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), through two symmetric eigenproblems.

    The symmetric form has a real, non-negative spectrum, so no imaginary part has to be measured
    away. Raises ValueError for moments that are not finite.
    """
    mean_a, covariance_a, mean_b, covariance_b = (
        np.asarray(value, dtype=np.float64)
        for value in (mean_a, covariance_a, mean_b, covariance_b)
    )
    if not all(np.isfinite(part).all() for part in (mean_a, covariance_a, mean_b, covariance_b)):
        raise ValueError("moments: hold values that are not finite; check the feature network")
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    spectrum = np.linalg.eigvalsh(root @ covariance_b @ root)
    trace_root = np.sqrt(np.clip(spectrum, 0, None)).sum()
    shift = mean_a - mean_b
    return _checked(
        shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * trace_root
    )


def frechet_distance_of_features(
    features_a: Shaped[ndarray, "n d"], features_b: Shaped[ndarray, "m d"]
) -> float:
    """Frechet distance between two feature sets, exact also where they span less than the space.

    With at most d vectors on one side the trace of the root is the nuclear norm of the product of
    the centred sets: no covariance is formed, so its null space adds no error. Raises ValueError
    below two vectors a side, for different widths and for features that are not finite.
    """
    sets = [np.asarray(features, dtype=np.float64) for features in (features_a, features_b)]
    for name, values in zip(("features_a", "features_b"), sets, strict=True):
        if values.ndim != 2 or len(values) < 2:
            raise ValueError(f"{name} has shape {values.shape}: needs (n, d) with n at least 2")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite; check the feature network")
    if sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(f"feature widths differ: {sets[0].shape[1]} and {sets[1].shape[1]}")
    if min(len(sets[0]), len(sets[1])) > sets[0].shape[1]:
        a, b = (FeatureMoments.of(values) for values in sets)
        return frechet_distance(a.mean, a.covariance(), b.mean, b.covariance())
    means = [values.mean(axis=0) for values in sets]
    a, b = (
        (values - mean) / np.sqrt(len(values) - 1) for values, mean in zip(sets, means, strict=True)
    )
    trace_root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = means[0] - means[1]
    return _checked(shift @ shift + (a * a).sum() + (b * b).sum() - 2 * trace_root)


def _checked(value: float) -> float:
    """Rounding can leave a tiny negative distance; anything larger is kept for the reader to
    see.
    """
    return 0.0 if -_ROUNDING < value < 0 else float(value)
