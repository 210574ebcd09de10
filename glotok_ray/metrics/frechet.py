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

from glotok_ray.metrics.blocks import recut

_ROUNDING = 1e-3
# Rows of which moments are taken at once. A merge costs as much as d rows do, so small blocks would take longer.
_ROWS_PER_BLOCK = 1024


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


class FeatureSummary(NamedTuple):
    """What a Frechet distance needs of a set of vectors: all of them, where they are at most as many as they are wide,
    and otherwise their moments. Memory stays below a few d x d, however many vectors there are.
    """

    rows: Shaped[ndarray, "n d"] | None
    moments: FeatureMoments | None

    @property
    def count(self) -> int:
        """Number of vectors."""
        if self.rows is not None:
            return len(self.rows)
        assert self.moments is not None
        return self.moments.count

    @property
    def width(self) -> int:
        """Numbers per vector."""
        if self.rows is not None:
            return self.rows.shape[1]
        assert self.moments is not None
        return len(self.moments.mean)


def summarize(features: Iterable[Shaped[ndarray, "b d"]]) -> FeatureSummary:
    """The summary of vectors that come in blocks, in one pass; moments merge in their order, over blocks of fixed size.

    Raises ValueError without a vector and for features that are not finite.
    """
    kept: list[ndarray] = []
    moments: FeatureMoments | None = None
    for block in recut(features, _ROWS_PER_BLOCK):
        if not np.isfinite(block).all():
            raise ValueError("features hold values that are not finite; check the feature network")
        kept.append(block)
        if moments is not None or sum(map(len, kept)) > block.shape[1]:
            for part in kept:
                one = FeatureMoments.of(part)
                moments = one if moments is None else moments.merge(one)
            kept = []
    if moments is not None:
        return FeatureSummary(None, moments)
    if not kept:
        raise ValueError("features: there are none")
    return FeatureSummary(np.concatenate(kept), None)


def frechet_distance_of_summaries(a: FeatureSummary, b: FeatureSummary) -> float:
    """Frechet distance between two sets, equal to that of `frechet_distance_of_features`.

    Raises ValueError below two vectors a side and for different widths.
    """
    for name, one in (("a", a), ("b", b)):
        if one.count < 2:
            raise ValueError(f"set {name} has {one.count} vectors: needs at least 2")
    if a.width != b.width:
        raise ValueError(f"feature widths differ: {a.width} and {b.width}")
    if a.rows is not None and b.rows is not None:
        return frechet_distance_of_features(a.rows, b.rows)
    if a.moments is not None and b.moments is not None:
        return frechet_distance(
            a.moments.mean, a.moments.covariance(), b.moments.mean, b.moments.covariance()
        )
    few, many = (a, b) if a.rows is not None else (b, a)
    assert few.rows is not None
    assert many.moments is not None
    return _distance_of_few(few.rows, many.moments.mean, many.moments.covariance())


def frechet_distance_to(
    features: FeatureSummary, mean: Float[ndarray, " d"], covariance: Float[ndarray, "d d"]
) -> float:
    """Frechet distance of a set to a Gaussian that is known by its moments alone.

    Raises ValueError below two vectors and for another width.
    """
    if features.count < 2:
        raise ValueError(f"features: {features.count} vectors; needs at least 2")
    if features.width != len(mean):
        raise ValueError(f"feature widths differ: {features.width} and {len(mean)}")
    moments = features.moments
    if moments is not None:
        return frechet_distance(moments.mean, moments.covariance(), mean, covariance)
    assert features.rows is not None
    return _distance_of_few(features.rows, mean, np.asarray(covariance, np.float64))


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


def _distance_of_few(
    rows: Shaped[ndarray, "n d"], other: Float[ndarray, " d"], covariance: Float[ndarray, "d d"]
) -> float:
    """Between at most d vectors and the moments of others: the nuclear norm of the centred rows times a root of the
    covariance. The rows' own covariance is not formed, so its null space adds no error here either.
    """
    values = np.asarray(rows, dtype=np.float64)
    mean = values.mean(axis=0)
    centred = (values - mean) / np.sqrt(len(values) - 1)
    spectrum, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(spectrum, 0, None))
    trace_root = np.linalg.svd(centred @ root, compute_uv=False).sum()
    shift = mean - other
    return _checked(
        shift @ shift + (centred * centred).sum() + np.trace(covariance) - 2 * trace_root
    )


def _checked(value: float) -> float:
    """Rounding can leave a tiny negative distance; anything larger is kept for the reader to
    see.
    """
    return 0.0 if -_ROUNDING < value < 0 else float(value)
