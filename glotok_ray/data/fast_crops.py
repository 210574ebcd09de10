"""The fast way to training crops: libjpeg-turbo decodes what is needed, and torch resamples in 8 bits.

Of a picture that ADM's resize does not halve, a crop differs from the exact one by the rounding of a level (over 60
dB of PSNR). Where it halves, libjpeg-turbo decodes at a half, a quarter or an eighth in the place of averaging (some
30 dB and more, which is another smoothing and no other place). What is no JPEG of gray or colour goes the exact way.
Read next: glotok_ray/data/training_crops.py
"""

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional

from glotok_ray.data.jpeg_decoding import jpeg_pixels, jpeg_size
from glotok_ray.data.training_crops import (
    ImageSize,
    PlaceOf,
    exact_crop,
    num_halvings,
    oriented,
)

# libjpeg-turbo decodes at an eighth, at the least.
_MOST_HALVINGS = 3


def fast_crop(encoded: bytes, key: str, place_of: PlaceOf) -> UInt8[np.ndarray, "3 size size"]:
    """The crop, within the tolerance; raises ArtefactError that names the row's key."""
    size = jpeg_size(encoded)
    if size is None:
        return exact_crop(encoded, key, place_of)
    picture = ImageSize(*size)
    place = place_of(picture)
    pixels = _decoded(encoded, picture, min(place.resized))
    if pixels is None:
        return exact_crop(encoded, key, lambda _: place)
    whole = _resampled(pixels, place.resized)
    rows = slice(place.top, place.top + place.size)
    columns = slice(place.left, place.left + place.size)
    return oriented(whole[:, rows, columns], place)


def _decoded(encoded: bytes, picture: ImageSize, side: int) -> np.ndarray | None:
    """The pixels, at a power of two below the size where ADM's resize would halve; None for a file with a fault."""
    factor = 2 ** min(num_halvings(picture, side), _MOST_HALVINGS)
    # In between there are eighths, which decode slower than the whole.
    height, width = (-(-pixels // factor) for pixels in (picture.height, picture.width))
    return jpeg_pixels(encoded, min_width=width, min_height=height)


def _resampled(pixels: np.ndarray, size: ImageSize) -> np.ndarray:
    if pixels.shape[:2] == (size.height, size.width):
        return pixels.transpose(2, 0, 1)
    # One image at a time is resampled by one thread, so many can be at once.
    resampled = functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None],
        size=(size.height, size.width),
        mode="bicubic",
        antialias=True,
    )
    return resampled[0].numpy()
