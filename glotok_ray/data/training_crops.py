"""From a row's bytes to the crop that is learned from, in two ways: exactly ADM's, or fast within a stated tolerance.

Where a crop lies is drawn from the picture's size alone, so both ways cut the same place. Exact is what Pillow makes,
bit for bit. Read next: glotok_ray/data/fast_crops.py
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from glotok_ray.data.forms import largest_short_side
from glotok_ray.data.image_files import resize_short_side
from glotok_ray.data.records import open_image

Decoding = Literal["exact", "fast"]


class ImageSize(NamedTuple):
    """Pixels of a picture."""

    width: int
    height: int


class CropPlace(NamedTuple):
    """A square of a resized picture."""

    resized: ImageSize
    """Of the whole picture, by ADM's resize."""
    top: int
    left: int
    size: int
    """Side of the square."""
    mirrored: bool = False


class CropRule(NamedTuple):
    """Which square of each picture is taken."""

    size: int
    """Side of the square."""
    crop: str = "random"
    """"random" or "center", as `ImageDataConfig.crop` says."""
    horizontal_flip: bool = False
    """Mirror half of the squares."""

    def place(self, picture: ImageSize, generator: np.random.Generator) -> CropPlace:
        """The square of a picture of this size; `generator` decides what is random."""
        side = self.size
        if self.crop == "random":
            side = int(generator.integers(self.size, largest_short_side(self.size) + 1))
        resized = resized_size(picture, side)
        room = resized.height - self.size, resized.width - self.size
        top, left = room[0] // 2, room[1] // 2
        if self.crop == "random":
            top, left = (int(generator.integers(pixels + 1)) for pixels in room)
        mirrored = self.horizontal_flip and generator.random() < 0.5
        return CropPlace(resized, top, left, self.size, mirrored)


PlaceOf = Callable[[ImageSize], CropPlace]
"""The square of a picture of a size, drawn once."""


def resized_size(picture: ImageSize, side: int) -> ImageSize:
    """The size that `resize_short_side` gives a picture."""
    width, height = picture
    for _ in range(num_halvings(picture, side)):
        width, height = width // 2, height // 2
    if min(width, height) == side:
        return ImageSize(width, height)
    scale = side / min(width, height)
    return ImageSize(round(width * scale), round(height * scale))


def num_halvings(picture: ImageSize, side: int) -> int:
    """How often ADM's resize halves a picture."""
    return max(0, (min(picture) // side).bit_length() - 1)


def exact_crop(encoded: bytes, key: str, place_of: PlaceOf) -> UInt8[np.ndarray, "3 size size"]:
    """ADM's crop, bit for bit what Pillow makes; raises ArtefactError that names the row's key."""
    image = open_image(encoded, key)
    place = place_of(ImageSize(*image.size))
    resized = resize_short_side(image, min(place.resized))
    box = (place.left, place.top, place.left + place.size, place.top + place.size)
    # The square alone becomes an array: that copy keeps other threads from working.
    return oriented(np.asarray(resized.crop(box)).transpose(2, 0, 1), place)


def oriented(crop: np.ndarray, place: CropPlace) -> np.ndarray:
    """The crop, mirrored where its place says so; a view."""
    return crop[:, :, ::-1] if place.mirrored else crop


def crop_function(
    decoding: Decoding,
) -> Callable[[bytes, str, PlaceOf], UInt8[np.ndarray, "3 size size"]]:
    """What makes crops by this way of decoding."""
    if decoding == "exact":
        return exact_crop
    # It computes with torch, which the exact way need not load.
    from glotok_ray.data.fast_crops import fast_crop

    return fast_crop
