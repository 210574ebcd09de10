"""JPEG files decoded by libjpeg-turbo straight into arrays: Pillow's pixels, without its buffers.

Pillow decodes by the same library, so the pixels are equal bit for bit where nothing is scaled. Two builds may differ;
`is_exact` compares them once per process. Read next: glotok_ray/data/records.py
"""

import functools
import io

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

_JPEG_START = b"\xff\xd8"
# CMYK and YCCK have inks that are inverted by some writers; Pillow knows which.
_COLOURS = ("YCbCr", "Gray", "RGB")


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that is decoded here; None of anything else."""
    if not encoded.startswith(_JPEG_START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=True)
    except ValueError:
        return None
    return (int(width), int(height)) if colours in _COLOURS else None


def jpeg_pixels(
    encoded: bytes, *, min_width: int = 0, min_height: int = 0
) -> UInt8[np.ndarray, "h w 3"] | None:
    """The RGB pixels, at the least scale of n/8 that keeps these sizes, else whole; None for a file with a fault.

    What libjpeg-turbo objects to is Pillow's to judge: it reads some of such files.
    """
    try:
        return simplejpeg.decode_jpeg(
            encoded, strict=True, min_width=min_width, min_height=min_height
        )
    except ValueError:
        return None


@functools.cache
def is_exact() -> bool:
    """Whether this build of the library gives the pixels of Pillow's."""
    return all(map(_same, _samples()))


def _same(file: bytes) -> bool:
    pixels = jpeg_pixels(file)
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    return pixels is not None and np.array_equal(pixels, expected)


def _samples() -> list[bytes]:
    """Noise of sizes that no block divides, in the forms that are decoded by code of their own."""
    noise = np.random.default_rng(0).integers(0, 256, (45, 61, 3), np.uint8)
    colour = Image.fromarray(noise)
    forms = [
        (colour, {"subsampling": "4:2:0"}),
        (colour, {"subsampling": "4:2:2"}),
        (colour, {"subsampling": "4:4:4", "progressive": True}),
        (colour.convert("L"), {}),
    ]
    return [_encoded(image, options) for image, options in forms]


def _encoded(image: Image.Image, options: dict[str, object]) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85, **options)
    return stream.getvalue()
