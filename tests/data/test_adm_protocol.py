"""From a file to a crop: bit for bit what guided-diffusion's center_crop_arr makes of the file, in one resampling."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glotok_ray.data.image_files import stored_image
from glotok_ray.data.records import Row, decode_image, write_shard
from glotok_ray.data.shard_plan import Division, ShardPlan, ShardRows
from glotok_ray.data.training_rows import ImageRows
from glotok_ray.data.transforms import (
    center_crop,
    random_crop,
    row_generator,
    ten_crop,
    with_mirror_images,
)

SIZES = [(500, 375), (375, 500), (256, 256), (255, 255), (300, 1200), (1025, 513), (64, 90)]
MODES = ["RGB", "L", "CMYK"]


def photograph(width: int, height: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """A file with both smooth parts and noise, as a camera would write it."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 90 * np.sin(rows[..., None] / (3, 7, 11)) + 60 * np.cos(columns[..., None] / (5, 2, 9))
    grain = np.random.default_rng(width + height).normal(0, 12, (height, width, 3))
    pixels = np.clip(128 + waves + grain, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def adm_resized(file: bytes, side: int) -> np.ndarray:
    """The rule: open, convert, halve by BOX while the short side is twice `side`, then BICUBIC to the short side."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.BOX)
    scale = side / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    return np.array(image.resize((width, height), Image.BICUBIC))


def adm_center_crop(file: bytes, side: int) -> np.ndarray:
    """The rule's middle."""
    pixels = adm_resized(file, side)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def stored(file: bytes, image_size: int = 0) -> np.ndarray:
    """The image that a reader of the shards gets."""
    return decode_image(stored_image(file, image_size=image_size, upright=False).encoded, "key")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_the_centre_crop_of_an_original_is_adms(size: tuple[int, int], mode: str) -> None:
    file = photograph(*size, mode)
    for side in (64, 256):
        np.testing.assert_array_equal(center_crop(stored(file), side), adm_center_crop(file, side))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_so_is_that_of_other_formats(kind: str) -> None:
    file = photograph(500, 375, kind=kind)
    np.testing.assert_array_equal(center_crop(stored(file), 256), adm_center_crop(file, 256))


def test_a_reduced_picture_s_crop_is_another() -> None:
    file = photograph(500, 375)
    crops = [center_crop(stored(file, side), 256).astype(float) for side in (0, 256)]
    assert 10 * np.log10(255**2 / np.mean((crops[0] - crops[1]) ** 2)) < 40


@pytest.mark.parametrize("size", SIZES)
def test_encoding_s_views_resample_the_original_once(size: tuple[int, int]) -> None:
    file = photograph(*size)
    large = adm_center_crop(file, 281)
    places = ((0, 0), (0, 25), (25, 0), (25, 25), (12, 12))
    expected = [large[top : top + 256, left : left + 256] for top, left in places]
    expected += [large[:, ::-1][top : top + 256, left : left + 256] for top, left in places]
    np.testing.assert_array_equal(ten_crop(stored(file), 256, 1.1), expected)
    views = with_mirror_images(center_crop(stored(file), 256)[np.newaxis])
    centre = adm_center_crop(file, 256)
    np.testing.assert_array_equal(views, [centre, centre[:, ::-1]])


def test_training_s_crops_resample_the_original_once(tmp_path: Path) -> None:
    files = [photograph(*size) for size in SIZES]
    rows = [
        Row(str(n), stored_image(file, image_size=0, upright=True).encoded, 0)
        for n, file in enumerate(files)
    ]
    write_shard(tmp_path / "part-00000.parquet", rows)
    plan = ShardPlan((ShardRows("part-00000.parquet", 7),), 0, 7, steps_per_epoch=1, open_shards=1)
    (unit,) = plan.units(0, 1, Division(1, 7, 7))
    found = ImageRows(tmp_path, 3, 32, "random", horizontal_flip=False)(unit)
    for key, image in zip(found["key"], found["image"], strict=True):
        generator = row_generator(3, 0, key)
        short_side = int(generator.integers(32, 41))
        resized = adm_resized(files[int(key)], short_side)
        top = int(generator.integers(resized.shape[0] - 31))
        left = int(generator.integers(resized.shape[1] - 31))
        expected = resized[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(image.transpose(1, 2, 0), expected)
        np.testing.assert_array_equal(
            random_crop(stored(files[int(key)]), 32, row_generator(3, 0, key)), expected
        )
