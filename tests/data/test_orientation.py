"""The eight EXIF orientations: applied where images are to be upright, and left as they lie where not."""

import io

import numpy as np
import pytest
from PIL import Image

from glotok_ray.data.image_files import stored_image
from glotok_ray.data.records import decode_image

# What a viewer does to the stored pixels (EXIF 2.32, tag 0x0112), by numpy alone.
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def photograph(orientation: int, kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image = Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))
    image.save(stream, kind, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_all_orientations_are_applied_or_left(orientation: int, kind: str) -> None:
    original = photograph(orientation, kind)
    lying = np.asarray(Image.open(io.BytesIO(original)).convert("RGB"))
    left = stored_image(original, image_size=0, upright=False)
    assert (left.encoded, left.turned) == (original, False)
    found = stored_image(original, image_size=0, upright=True)
    assert found.turned == (orientation != 1)
    np.testing.assert_array_equal(
        decode_image(found.encoded, "key"), UPRIGHT[orientation](lying), strict=True
    )
    # A reader that honours tags turns it no further.
    tags = Image.open(io.BytesIO(found.encoded)).getexif()
    assert tags.get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_other_numbers_turn_nothing(orientation: int) -> None:
    original = photograph(orientation, "JPEG")
    assert stored_image(original, image_size=0, upright=True).encoded == original
