"""One image file of any kind made ready for storage: its own bytes where every reader sees the same image, or PNG.

A file that holds no usable image raises `UnreadableImageError`; the job counts and names it and goes on.
Read next: glotok_ray/data/folders.py
"""

import io
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from glotok_ray.data.forms import largest_short_side
from glotok_ray.data.jpeg_segments import without_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# MPO is what Pillow calls a JPEG with further images behind it, as phones write them.
_KEPT_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")

READER_PIXELS = 1024**3 // 12
"""Pixels of a stored image at most (89 million, Pillow's own limit), so that a reader needs 0.9 GB for one.
Images of up to twice as many are halved when they are sharded, which needs 8 bytes per pixel in every mode, 1.4 GB;
larger ones are left out. Two decoders take more while they work: of progressive JPEG 10 bytes per pixel (CMYK 12), of
WebP 16, so 1.1 and 1.4 GB for a reader and 2.1 and 2.9 GB for sharding at most. The file's own bytes come on top.
"""
_BAND_PIXELS = 2**20
_ORIGINAL_ASPECT = 64
# What reduced images are for needs less, and a line of pixels enlarged to a side could fill the memory.
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


class UnreadableImageError(ValueError):
    """A file that holds no image we can use; the text is the reason."""


class StoredImage(NamedTuple):
    """The bytes to store, what was changed of the image, empty for nearly all, and whether a tag turned it."""

    encoded: bytes
    change: str = ""
    turned: bool = False
    resized: bool = False
    """Whether its short side was reduced as `Reduction` says."""


class Reduction(NamedTuple):
    """Images with a larger short side are reduced to `short_side` pixels and stored as JPEG of `quality`."""

    short_side: int
    quality: int


class RgbImage(NamedTuple):
    """An 8-bit RGB image; `change` names what differs from `convert("RGB")` of the file."""

    image: Image.Image
    change: str = ""


class _Decoded(NamedTuple):
    """An RGB image; `source` has the file's bytes where every reader makes this image of them, else nothing."""

    source: bytes
    image: Image.Image
    changes: list[str]
    turned: bool


def stored_image(
    original: bytes, *, image_size: int, upright: bool, reduction: Reduction | None = None
) -> StoredImage:
    """A file's image, whole, as PNG, or its very bytes where RGB conversion is all that a reader must do.

    With `image_size` 0 at its own size, up to READER_PIXELS and 64 : 1; else with its short side brought into
    [image_size, 1.25 * image_size], up to 8 : 1. `upright` turns it by its EXIF orientation and lays transparent
    pixels on white; off, pixels stay as they lie and alpha is dropped. A `reduction` goes with `image_size` 0.
    Raises UnreadableImageError.
    """
    try:
        return _stored(original, image_size=image_size, upright=upright, reduction=reduction)
    except UnreadableImageError:
        raise
    # No file stops the job: what goes wrong with one is its own.
    except Exception as error:
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def to_rgb(image: Image.Image, *, on_white: bool = True) -> RgbImage:
    """Any mode as 8-bit RGB: 16-bit levels are scaled, transparent pixels laid on white (else alpha is dropped).

    Needs little beside the image and its RGB copy. Raises UnreadableImageError.
    """
    if image.mode.startswith("I"):
        return RgbImage(_by_bands(image, _eight_bit), "16 bits scaled to 8")
    if image.mode == "F":
        raise UnreadableImageError(
            "floating-point pixels have no known range; save it with 8 or 16 bits"
        )
    if on_white and image.has_transparency_data and not _is_opaque(image):
        return RgbImage(_by_bands(image, _on_white), "laid on white")
    return RgbImage(image if image.mode == "RGB" else image.convert("RGB"))


def fit_image(image: Image.Image, image_size: int) -> Image.Image:
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


def _stored(
    original: bytes, *, image_size: int, upright: bool, reduction: Reduction | None
) -> StoredImage:
    aspect = _REDUCED_ASPECT if image_size else _ORIGINAL_ASPECT
    source, whole, changes, turned = _read(original, aspect, upright=upright)
    if whole.width * whole.height > READER_PIXELS:
        # ADM's first step for every side up to half of the short one: such crops stay the same.
        source, whole = b"", _halved(whole)
        # Of reduced images it is nothing to tell: all are made smaller, by the same first step.
        if not image_size:
            changes.append(f"halved to {whole.width} x {whole.height} pixels")
    if image_size:
        size, whole = whole.size, fit_image(whole, image_size)
        source = source if whole.size == size else b""
    if reduction and min(whole.size) > reduction.short_side:
        smaller = resize_short_side(whole, reduction.short_side)
        return StoredImage(_jpeg(smaller, reduction.quality), ", ".join(changes), turned, True)
    return StoredImage(source or _png(whole), ", ".join(changes), turned)


def _read(original: bytes, aspect: int, *, upright: bool) -> _Decoded:
    try:
        return _decode(original, aspect, upright=upright)
    except UnreadableImageError:
        # Metadata that Pillow stumbles over says nothing about the pixels.
        bare = without_metadata(original)
        if bare is None:
            raise
        return _decode(bare, aspect, upright=upright)


def _decode(encoded: bytes, aspect: int, *, upright: bool) -> _Decoded:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, and above a limit of pixels that is ours to keep.
            warnings.simplefilter("ignore")
            return _decoded(encoded, aspect, upright=upright)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        # Pillow's own text has the address of a stream, another one at each reading.
        heif = " (it is a HEIF or AVIF image)" if encoded[4:8] == b"ftyp" else ""
        raise UnreadableImageError(
            f"no image of a format that is read: {', '.join(FORMATS)}{heif}"
        ) from None
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(_too_many_pixels()) from error
    # Pillow's plugins raise many kinds of errors on damaged files; all mean that this one is lost.
    except Exception as error:
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _decoded(encoded: bytes, aspect: int, *, upright: bool) -> _Decoded:
    # Not in a `with`, which would hold the file's pixels beside the copies that are made of them.
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    _check_pixels(image)
    image.load()
    turn = _TURNS.get(_orientation(image)) if upright else None
    kept, changes = image.format in _KEPT_FORMATS and turn is None, []
    # First, since nothing bounds the memory that conversions of a line take, and half of its short side may be none.
    if max(image.size) > aspect * min(image.size):
        image = _limit_aspect(image, aspect)
        changes.append(f"cut to its middle of {aspect} : 1")
    rgb, change = to_rgb(image, on_white=upright)
    del image
    changes += [change] if change else []
    if turn is not None:
        rgb = rgb.transpose(turn)
    return _Decoded(encoded if kept and not changes else b"", rgb, changes, turned=turn is not None)


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
        raise UnreadableImageError(_too_many_pixels())


def _too_many_pixels() -> str:
    return f"more than {2 * READER_PIXELS} pixels, which is the limit; reduce it"


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert`, which makes RGB of an image, over bands of rows: what it needs beside them stays small."""
    result = Image.new("RGB", image.size)
    for box in _bands(image.size):
        result.paste(convert(image.crop(box)), box)
    return result


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    width, height = size
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _eight_bit(band: Image.Image) -> Image.Image:
    levels = np.asarray(band)
    if levels.min() < 0 or levels.max() > 65535:
        raise UnreadableImageError("32-bit pixels outside [0, 65535]; save it with 8 or 16 bits")
    scaled = (levels.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _is_opaque(image: Image.Image) -> bool:
    return all(_alpha(image.crop(box)).getextrema()[0] == 255 for box in _bands(image.size))


def _alpha(band: Image.Image) -> Image.Image:
    return band.convert("RGBA").getchannel("A")


def _on_white(band: Image.Image) -> Image.Image:
    white = Image.new("RGBA", band.size, "white")
    return Image.alpha_composite(white, band.convert("RGBA")).convert("RGB")


def _png(image: Image.Image) -> bytes:
    """Lossless bytes of pixels alone: what the file said of colours and transparency was used, or is dropped."""
    image.info = {}
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _jpeg(image: Image.Image, quality: int) -> bytes:
    image.info = {}
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


def _limit_aspect(image: Image.Image, aspect: int) -> Image.Image:
    width, height = (min(side, aspect * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
