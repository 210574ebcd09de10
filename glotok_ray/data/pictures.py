"""One picture file of any kind made ready for storage: its own bytes where every reader sees the same picture, or PNG.

A file that holds no usable picture raises `UnreadablePictureError`; the job counts and names it and goes on.
Read next: glotok_ray/data/folders.py
"""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from glotok_ray.data.forms import largest_short_side
from glotok_ray.data.jpeg_segments import without_metadata
from glotok_ray.data.records import encode_png

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# MPO is what Pillow calls a JPEG with further pictures behind it, as phones write them.
_KEPT_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")

READER_PIXELS = 1024**3 // 12
"""Pixels of a stored picture at most (89 million, Pillow's own limit), so that a reader needs 0.9 GB for one at most.
Pictures of up to twice as many are halved when they are sharded, which needs 1.3 GB; larger ones are left out.
"""
_ORIGINAL_ASPECT = 64
# What reduced pictures are for needs less, and a line of pixels enlarged to a side could fill the memory.
_REDUCED_ASPECT = 8

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePictureError(ValueError):
    """A file that holds no picture we can use; the text is the reason."""


class StoredPicture(NamedTuple):
    """The bytes to store, and what readers' memory bounds changed of the picture: empty for nearly all."""

    encoded: bytes
    change: str = ""


def stored_picture(original: bytes, *, image_size: int, upright: bool) -> StoredPicture:
    """A file's picture, whole, as PNG, or its very bytes where RGB conversion is all that a reader must do.

    With `image_size` 0 at its own size, up to READER_PIXELS and 64 : 1; else with its short side brought into
    [image_size, 1.25 * image_size], up to 8 : 1. `upright` turns it by its EXIF orientation. Raises
    UnreadablePictureError.
    """
    source, picture = _read(original, upright=upright)
    aspect = _REDUCED_ASPECT if image_size else _ORIGINAL_ASPECT
    whole, changes = picture, []
    if whole.width * whole.height > READER_PIXELS:
        # ADM's first step for every side up to half of the short one: such crops stay the same.
        whole = _halved(whole)
        # Of reduced pictures it is nothing to tell: all are made smaller, by the same first step.
        if not image_size:
            changes.append(f"halved to {whole.width} x {whole.height} pixels")
    if max(whole.size) > aspect * min(whole.size):
        whole = _limit_aspect(whole, aspect)
        changes.append(f"cut to its middle of {aspect} : 1")
    if image_size:
        whole = fit_picture(whole, image_size)
    kept = source and whole.size == picture.size
    return StoredPicture(source if kept else encode_png(np.asarray(whole)), ", ".join(changes))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB: 16-bit levels are scaled, transparent pixels are laid on white."""
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.mode == "F":
        raise UnreadablePictureError(
            "floating-point pixels have no known range; save it with 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def fit_picture(image: Image.Image, image_size: int) -> Image.Image:
    """Bring the short side into [image_size, 1.25 * image_size]."""
    short_side = max(min(image.size), image_size)
    return resize_short_side(image, min(short_side, largest_short_side(image_size)))


def resize_short_side(image: Image.Image, side: int) -> Image.Image:
    """ADM's resize: halve by BOX while the short side is at least twice `side`, then BICUBIC."""
    while min(image.size) >= 2 * side:
        image = _halved(image)
    if min(image.size) == side:
        return image
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def _read(original: bytes, *, upright: bool) -> tuple[bytes, Image.Image]:
    """The RGB picture, and bytes in which every reader finds just it: empty where there are none."""
    try:
        return _decode(original, upright=upright)
    except UnreadablePictureError:
        # Metadata that Pillow stumbles over says nothing about the pixels.
        bare = without_metadata(original)
        if bare is None:
            raise
        return _decode(bare, upright=upright)


def _decode(encoded: bytes, *, upright: bool) -> tuple[bytes, Image.Image]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, and above a limit of pixels that is ours to keep.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                _check_pixels(image)
                image.load()
                turn = _TURNS.get(_orientation(image)) if upright else None
                plain = image.format in _KEPT_FORMATS and not (
                    image.has_transparency_data or image.mode.startswith(("I", "F"))
                )
                picture = to_rgb(image)
                if turn is None:
                    return encoded if plain else b"", picture
                return b"", picture.transpose(turn)
    except UnreadablePictureError:
        raise
    except UnidentifiedImageError:
        # Pillow's own text has the address of a stream, another one at each reading.
        heif = " (it is a HEIF or AVIF picture)" if encoded[4:8] == b"ftyp" else ""
        raise UnreadablePictureError(
            f"no picture of a format that is read: {', '.join(FORMATS)}{heif}"
        ) from None
    except Image.DecompressionBombError as error:
        raise UnreadablePictureError(_too_many_pixels()) from error
    # Pillow's plugins raise many kinds of errors on damaged files; all mean that this one is lost.
    except Exception as error:
        raise UnreadablePictureError(str(error) or type(error).__name__) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    # Odd blocks make Pillow raise many kinds of errors.
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > 2 * READER_PIXELS:
        raise UnreadablePictureError(_too_many_pixels())


def _too_many_pixels() -> str:
    return f"more than {2 * READER_PIXELS} pixels, which is the limit; reduce it"


def _eight_bit(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UnreadablePictureError("32-bit pixels outside [0, 65535]; save it with 8 or 16 bits")
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))


def _halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


def _limit_aspect(image: Image.Image, aspect: int) -> Image.Image:
    width, height = (min(side, aspect * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
