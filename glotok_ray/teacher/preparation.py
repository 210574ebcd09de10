"""What happens to feature vectors before k-means: centring, projection, normalisation (paper section 3.3).

Each step changes cosines. All of them follow from sums that are additive over parts of the vectors.
Read next: glotok_ray/teacher/clustering.py
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

# fp64 copies of a block of vectors: 2^24 numbers are 128 MiB.
NUMBERS_PER_BLOCK = 1 << 24


class Projection(NamedTuple):
    """The leading principal axes and the share of the (second) moment that they keep."""

    axes: Float[np.ndarray, "channels width"]
    kept_share: float


class Preparation(NamedTuple):
    """What happens to a feature vector before it is clustered; each step changes cosines."""

    mean: Float[np.ndarray, " channels"] | None
    axes: Float[np.ndarray, "channels width"] | None
    spherical: bool
    kept_share: float = 1.0
    """Share of the second moment that the axes keep; 1 without axes."""

    def __call__(self, vectors: Float[np.ndarray, "n channels"]) -> Float[np.ndarray, "n width"]:
        """A new array: centred, projected, normalised, fp32."""
        prepared = np.array(vectors, dtype=np.float32, order="C")
        if self.mean is not None:
            prepared -= self.mean
        if self.axes is not None:
            prepared = prepared @ self.axes
        return normalize_rows(prepared) if self.spherical else prepared


class Moments(NamedTuple):
    """Additive sums from which a preparation follows, fp64."""

    count: int
    total: Float[np.ndarray, " channels"]
    second: Float[np.ndarray, "channels channels"] | None

    def __add__(self, other: "Moments") -> "Moments":  # type: ignore[override]
        second = None
        if self.second is not None and other.second is not None:
            second = self.second + other.second
        return Moments(self.count + other.count, self.total + other.total, second)


def moments(vectors: Float[np.ndarray, "n channels"], *, second: bool) -> Moments:
    """Sums over these vectors; `second` moments are needed for a projection alone. Raises ValueError for vectors that
    are not finite.
    """
    channels = vectors.shape[1]
    total = np.zeros(channels)
    moment = np.zeros((channels, channels)) if second else None
    for block in blocks(vectors):
        double = block.astype(np.float64)
        total += double.sum(axis=0)
        if moment is not None:
            moment += double.T @ double
    # Sums of fp32 numbers cannot overflow in fp64.
    if not np.isfinite(total).all():
        raise ValueError(
            f"of {len(vectors)} feature vectors some hold NaN or infinite values; make the features again with --fresh"
        )
    return Moments(len(vectors), total, moment)


def preparation(
    found: Moments, *, center: bool, project_width: int, spherical: bool
) -> Preparation:
    """Centring, projection to `project_width` axes where second moments were summed, and normalisation."""
    mean = found.total / found.count
    axes, kept = None, 1.0
    if found.second is not None:
        moment = found.second / found.count
        if center:
            moment = moment - np.outer(mean, mean)
        axes, kept = _leading_axes(moment, project_width)
    centre = mean.astype(np.float32) if center else None
    return Preparation(centre, axes, spherical, kept)


def principal_axes(vectors: Float[np.ndarray, "vectors channels"], width: int) -> Projection:
    """Leading eigenvectors of the second-moment matrix, each with its largest entry positive.

    Of centred vectors this is PCA. Raises ValueError when `width` exceeds the channels.
    """
    second = moments(vectors, second=True).second
    assert second is not None
    return _leading_axes(second, width)


def _leading_axes(moment: np.ndarray, width: int) -> Projection:
    channels = len(moment)
    if not 1 <= width <= channels:
        raise ValueError(
            f"project_width = {width}: features have {channels} channels; choose at most that, or "
            "0 to keep all"
        )
    values, axes = torch.linalg.eigh(torch.from_numpy(moment))
    axes = axes.flip(1)[:, :width].numpy()
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(width)]
    total = float(values.sum())
    kept = float(values[-width:].sum()) / total if total > 0 else 1.0
    return Projection((axes * np.sign(largest)).astype(np.float32), kept)


def normalize_rows(
    vectors: Float[np.ndarray, "vectors width"],
) -> Float[np.ndarray, "vectors width"]:
    """Rows of unit length; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)


def add_up(parts: Iterable[Any]) -> Any:
    """The sum of moments or of partial sums, in their order; at least one is needed."""
    total = None
    for part in parts:
        total = part if total is None else total + part
    assert total is not None
    return total


def blocks(vectors: Float[np.ndarray, "n width"]) -> Iterable[Float[np.ndarray, "m width"]]:
    """Slices of a bounded number of elements, in order."""
    rows = max(1, NUMBERS_PER_BLOCK // max(1, vectors.shape[1]))
    return (vectors[start : start + rows] for start in range(0, len(vectors), rows))
