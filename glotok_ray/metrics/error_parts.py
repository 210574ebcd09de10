"""Where the squared error of an image lies: in octave bands of spatial frequency, and in luma and chroma.

Frequencies are those of an orthonormal cosine transform, which takes no edge of an image for a jump to the opposite
edge. Read next: glotok_ray/evaluation/error_metrics.py
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

_EDGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)
# JPEG's full-range luma and colour differences (BT.601) of red, green and blue.
_COLOURS = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
# Of the whole error: far above what rounding leaves in an empty band (1e-32), far below what one grey level is.
_ROUNDING = 1e-24


class ErrorPart(NamedTuple):
    """A part of the error of an image."""

    name: str
    """In names of metrics."""
    title: str


BANDS = (
    ErrorPart("band_1", "below 1/32"),
    ErrorPart("band_2", "1/32 to 1/16"),
    ErrorPart("band_3", "1/16 to 1/8"),
    ErrorPart("band_4", "1/8 to 1/4"),
    ErrorPart("band_5", "1/4 and above"),
)
"""Octaves in cycles per pixel, each with its lower edge and without its upper one."""
COLOURS = (ErrorPart("luma", "luma"), ErrorPart("chroma", "chroma"))
"""Luma, and the mean of both colour differences."""
PARTS = (*BANDS, *COLOURS)
"""The columns of `squared_error_parts`."""


def squared_error_parts(
    images: Shaped[ndarray, "b h w 3"], others: Shaped[ndarray, "b h w 3"] | float
) -> Float[ndarray, "b parts"]:
    """Each pair's mean squared error in each of PARTS, in squared grey levels of 0 to 255.

    Those of BANDS are shares of the error over all pixels of red, green and blue, and add up to it (Parseval). Those of
    COLOURS are means over the values of their own channels. `others` may be one grey level.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images of shape {images.shape}: must be (b, h, w, 3)")
    if np.ndim(others) and np.shape(others) != images.shape:
        raise ValueError(f"shapes {images.shape} and {np.shape(others)}: need equal (b, h, w, 3)")
    difference = images.astype(np.float64) - np.asarray(others, np.float64)
    return np.concatenate([_in_bands(difference), _in_colours(difference)], axis=1)


def band_of_frequencies(height: int, width: int) -> Shaped[ndarray, "height width"]:
    """The place in BANDS of each coefficient of the cosine transform of an image."""
    # Coefficient k of n has k half periods along its side.
    vertical, horizontal = (np.arange(side) / (2 * side) for side in (height, width))
    return np.digitize(np.hypot(vertical[:, None], horizontal), _EDGES)


def _in_bands(difference: Float[ndarray, "b h w 3"]) -> Float[ndarray, "b bands"]:
    # Imported where it is used, as all of scipy: a command's --help should be quick.
    from scipy.fft import dctn

    height, width, channels = difference.shape[1:]
    energy = (np.asarray(dctn(difference, axes=(1, 2), norm="ortho")) ** 2).sum(axis=3)
    bands = band_of_frequencies(height, width)
    found = [energy[:, bands == place].sum(axis=1) for place in range(len(BANDS))]
    errors = np.stack(found, axis=1) / (height * width * channels)
    errors[errors < _ROUNDING * errors.sum(axis=1, keepdims=True)] = 0.0
    return errors


def _in_colours(difference: Float[ndarray, "b h w 3"]) -> Float[ndarray, "b 2"]:
    squares = ((difference @ _COLOURS.T) ** 2).mean(axis=(1, 2))
    errors = np.stack([squares[:, 0], squares[:, 1:].mean(axis=1)], axis=1)
    errors[errors < _ROUNDING * squares.sum(axis=1, keepdims=True)] = 0.0
    return errors
