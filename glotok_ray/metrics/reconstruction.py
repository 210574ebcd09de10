"""PSNR and SSIM of reconstructions, per image on 8-bit RGB (paper section 4.1).

Both are averaged over images, never over pixels of all images at once. SSIM is Wang's: Gaussian
window 11 x 11 of sigma 1.5, population covariance. Read next: glotok_ray/stages/evaluate_images.py
"""

from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

_RADIUS = 5
_OFFSETS = np.arange(-_RADIUS, _RADIUS + 1)
_WINDOW = np.exp(-0.5 * (_OFFSETS / 1.5) ** 2)
_WINDOW = _WINDOW / _WINDOW.sum()
_STABILITY_MEAN = (0.01 * 255) ** 2
_STABILITY_VARIANCE = (0.03 * 255) ** 2


class ScoreSum(NamedTuple):
    """Mergeable sum of a per-image score; infinite scores (identical images in PSNR) are counted
    apart.
    """

    count: int = 0
    total: float = 0.0
    total_squares: float = 0.0
    num_infinite: int = 0

    @classmethod
    def of(cls, scores: Float[ndarray, " b"]) -> Self:
        """Sum of one block; raises ValueError for a score that is NaN or -inf, which no pair of images has."""
        if np.isnan(scores).any() or np.isneginf(scores).any():
            raise ValueError("scores: hold NaN or -inf; look for a diverged model")
        finite = np.asarray(scores, dtype=np.float64)[np.isfinite(scores)]
        return cls(
            len(finite),
            float(finite.sum()),
            float((finite**2).sum()),
            int(np.isposinf(scores).sum()),
        )

    def merge(self, other: "ScoreSum") -> "ScoreSum":
        """Sum of both sets together."""
        return ScoreSum(
            self.count + other.count,
            self.total + other.total,
            self.total_squares + other.total_squares,
            self.num_infinite + other.num_infinite,
        )

    @property
    def mean(self) -> float:
        """Arithmetic mean over images with a finite score; NaN without any."""
        return self.total / self.count if self.count else float("nan")

    @property
    def standard_deviation(self) -> float:
        """Population deviation over images with a finite score; NaN below two, of which one tells no spread."""
        if self.count < 2:
            return float("nan")
        return float(np.sqrt(max(self.total_squares / self.count - self.mean**2, 0.0)))


def psnr(
    images: UInt8[ndarray, "b h w c"], others: UInt8[ndarray, "b h w c"]
) -> Float[ndarray, " b"]:
    """Peak signal-to-noise ratio in dB of each pair: 10 log10(255^2 / mean squared error); inf
    if identical.
    """
    _check_pair(images, others)
    difference = images.astype(np.float64) - others.astype(np.float64)
    squared_error = (difference**2).mean(axis=(1, 2, 3))
    return psnr_of_error(squared_error)


def psnr_of_error(squared_error: Float[ndarray, " b"]) -> Float[ndarray, " b"]:
    """In dB, of mean squared errors in squared grey levels of 0 to 255; inf for an error of 0."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / squared_error)


def ssim(
    images: UInt8[ndarray, "b h w c"], others: UInt8[ndarray, "b h w c"]
) -> Float[ndarray, " b"]:
    """Structural similarity of each pair in [-1, 1], averaged over whole windows and channels.

    Equals scikit-image's `structural_similarity` with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255`, over a batch at once.
    """
    _check_pair(images, others)
    if min(images.shape[1:3]) <= 2 * _RADIUS:
        raise ValueError(f"image side {min(images.shape[1:3])}: SSIM's window needs at least 11")
    a, b = images.astype(np.float64), others.astype(np.float64)
    mean_a, mean_b = _windowed(a), _windowed(b)
    variance = _windowed(a * a) - mean_a**2 + _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _STABILITY_MEAN) / (mean_a**2 + mean_b**2 + _STABILITY_MEAN)
    structure = (2 * covariance + _STABILITY_VARIANCE) / (variance + _STABILITY_VARIANCE)
    return (luminance * structure).mean(axis=(1, 2, 3))


def _windowed(values: Float[ndarray, "b h w c"]) -> Float[ndarray, "b h_valid w_valid c"]:
    from scipy import ndimage

    rows = ndimage.correlate1d(values, _WINDOW, axis=1)[:, _RADIUS:-_RADIUS]
    return ndimage.correlate1d(rows, _WINDOW, axis=2)[:, :, _RADIUS:-_RADIUS]


def _check_pair(images: ndarray, others: ndarray) -> None:
    if images.dtype != np.uint8 or others.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} and {others.dtype}: round both to uint8 first")
    if images.shape != others.shape or images.ndim != 4:
        raise ValueError(f"shapes {images.shape} and {others.shape}: need equal (b, h, w, c)")
