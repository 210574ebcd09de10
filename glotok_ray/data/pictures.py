"""One picture file of any kind made ready for storage: 8-bit RGB, upright, short side near the training side.

A file that holds no usable picture raises `UnreadablePictureError`; the job counts and names it and goes on.
Read next: glotok_ray/data/folders.py
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from glotok_ray.data.records import encode_png

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION_TAG = 0x0112
# A line of pixels enlarged to a training side could fill the memory: longer pictures keep their middle.
_LARGEST_ASPECT = 8


class UnreadablePictureError(ValueError):
    """A file that holds no picture we can use; the text is the reason."""


def stored_bytes(original: bytes, image_size: int) -> bytes:
    """A picture for training at `image_size`: PNG, or the original bytes of an RGB JPEG that fits.

    The short side ends up in [image_size, 1.25 * image_size]. Raises UnreadablePictureError.
    """
    picture, plain = _read(original)
    fitted = fit_picture(picture, image_size)
    return original if plain and fitted.size == picture.size else encode_png(np.asarray(fitted))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB: 16-bit levels are scaled, transparent pixels are laid on white."""
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.mode == "F":
        raise UnreadablePictureError(
            "floating-point pixels have no known range; save it with 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def fit_picture(image: Image.Image, image_size: int) -> Image.Image:
    """Bring the short side into [image_size, 1.25 * image_size]; the aspect is kept up to 8 : 1."""
    image = _limit_aspect(image)
    short_side = max(min(image.size), image_size)
    return resize_short_side(image, min(short_side, largest_short_side(image_size)))


def largest_short_side(image_size: int) -> int:
    """1.25 * image_size, rounded up: the most that ADM's random crop can use."""
    return -(-5 * image_size // 4)


def resize_short_side(image: Image.Image, side: int) -> Image.Image:
    """ADM's resize: halve by BOX while the short side is at least twice `side`, then BICUBIC."""
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    if min(image.size) == side:
        return image
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def _read(original: bytes) -> tuple[Image.Image, bool]:
    """The upright RGB picture, and whether the bytes are an RGB JPEG that needs no turning."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns above MAX_IMAGE_PIXELS; it refuses above twice that number.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(original), formats=_FORMATS) as image:
                image.load()
                upright = image.getexif().get(_ORIENTATION_TAG, 1) == 1
                plain = upright and image.format == "JPEG" and image.mode == "RGB"
                return to_rgb(ImageOps.exif_transpose(image)), plain
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadablePictureError(
            f"more pixels than Pillow's MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}; reduce it"
        ) from error
    # Pillow's plugins raise many kinds of errors on damaged files; all mean that this one is lost.
    except Exception as error:
        raise UnreadablePictureError(str(error) or type(error).__name__) from error


def _eight_bit(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UnreadablePictureError("32-bit pixels outside [0, 65535]; save it with 8 or 16 bits")
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))


def _limit_aspect(image: Image.Image) -> Image.Image:
    width, height = (min(side, _LARGEST_ASPECT * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
