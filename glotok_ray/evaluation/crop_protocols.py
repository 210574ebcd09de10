"""Crops as each system's authors cut them: another resize before the middle square than ADM's.

Shrinking by ADM's rule halves large images before; these resize at once. Read next:
glotok_ray/evaluation/psnr_protocols.py
"""

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from glotok_ray.data.transforms import center_crop
from glotok_ray.peers.released import CropProtocol

CROP_TEXTS: dict[CropProtocol, str] = {
    "adm": "ADM's crop",
    "bilinear": "torchvision's Resize (bilinear with antialiasing, 8-bit) and CenterCrop",
    "bicubic": "torchvision's Resize (bicubic with antialiasing, 8-bit) and CenterCrop",
    "plain_bilinear": "albumentations' SmallestMaxSize (bilinear without antialiasing) and CenterCrop",
}
"""What each is, in words."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def own_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int, protocol: CropProtocol
) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square after the short side became `size`; of a square of that side the image itself.

    "plain_bilinear" samples at half-pixel places as OpenCV does, which rounds by fixed-point numbers: a pixel may
    differ by one level. torchvision drops the fraction of the long side and rounds half an offset to even;
    albumentations rounds the long side and drops the half.
    """
    if protocol == "adm":
        return center_crop(image, size)
    height, width = image.shape[:2]
    short = min(height, width)
    if protocol == "plain_bilinear":
        sides = tuple(math.floor(side * size / short + 0.5) for side in (height, width))
        return _middle(_sampled(image, sides), size, tuple((side - size) // 2 for side in sides))
    sides = tuple(size if side == short else int(size * side / short) for side in (height, width))
    offsets = tuple(round((side - size) / 2) for side in sides)
    if sides == (height, width):
        return _middle(image, size, offsets)
    resized = Image.fromarray(image).resize(sides[::-1], _FILTERS[protocol])
    return _middle(np.asarray(resized), size, offsets)


def _middle(image: np.ndarray, size: int, offsets: tuple[int, ...]) -> np.ndarray:
    top, left = offsets
    return image[top : top + size, left : left + size]


def _sampled(
    image: UInt8[np.ndarray, "h w 3"], sides: tuple[int, ...]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Bilinear samples at the places of the new pixels' middles; what lies between them is not read."""
    pixels = image.astype(np.float64)
    for axis, side in enumerate(sides):
        pixels = _along(pixels, axis, side)
    return np.floor(pixels + 0.5).astype(np.uint8)


def _along(
    pixels: Float[np.ndarray, "h w 3"], axis: int, side: int
) -> Float[np.ndarray, "h2 w2 3"]:
    old = pixels.shape[axis]
    places = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    low = np.minimum(places.astype(int), max(old - 2, 0))
    share = np.expand_dims(places - low, tuple(other for other in range(3) if other != axis))
    first = np.take(pixels, low, axis)
    second = np.take(pixels, np.minimum(low + 1, old - 1), axis)
    return first + (second - first) * share
