"""Crops against an independent writing of ADM's rule and against torchvision; the exact round trip of all levels."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from glotok_ray.data.pixel_range import to_model_range, to_uint8
from glotok_ray.data.transforms import (
    center_crop,
    random_crop,
    row_generator,
    ten_crop,
    with_mirror_images,
)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def adm_resize(image: Image.Image, side: int) -> Image.Image:
    """The rule as evaluation protocols state it: BOX halvings, then BICUBIC to round(side * scale)."""
    while min(*image.size) >= 2 * side:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = side / min(*image.size)
    return image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)


def test_centre_crop_of_an_exact_square_is_the_identity() -> None:
    image = noise(16, 16)
    np.testing.assert_array_equal(center_crop(image, 16), image)


@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (16, 50), (7, 9), (100, 260), (1, 1)])
def test_centre_crop_is_adms(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    resized = np.asarray(adm_resize(Image.fromarray(image), 16))
    top, left = (resized.shape[0] - 16) // 2, (resized.shape[1] - 16) // 2
    np.testing.assert_array_equal(center_crop(image, 16), resized[top : top + 16, left : left + 16])


def test_random_crop_is_a_window_of_a_resized_picture() -> None:
    image, sides, places = noise(40, 52), set(), set()
    for draw in range(200):
        crop = random_crop(image, 16, np.random.default_rng(draw))
        assert crop.shape == (16, 16, 3)
        # The same draws, in the same order, by the rule.
        generator = np.random.default_rng(draw)
        side = int(generator.integers(16, math.ceil(16 / 0.8) + 1))
        resized = np.asarray(adm_resize(Image.fromarray(image), side))
        top = int(generator.integers(resized.shape[0] - 15))
        left = int(generator.integers(resized.shape[1] - 15))
        np.testing.assert_array_equal(crop, resized[top : top + 16, left : left + 16])
        sides.add(side)
        places.add((top, left))
    assert sides == {16, 17, 18, 19, 20}
    assert len(places) > 30


@pytest.mark.parametrize(
    ("shape", "size", "scale", "side"),
    # Margins of 1, 3, 25 and 0 pixels; short sides above, at and below the image's side.
    [
        ((40, 60), 16, 1.1, 17),
        ((61, 33), 30, 1.1, 33),
        ((20, 21), 32, 1.1, 35),
        ((300, 281), 256, 1.1, 281),
        ((256, 400), 256, 1.1, 281),
        ((16, 40), 16, 1.0, 16),
    ],
)
def test_ten_crops_are_torchvisions_of_the_centre_crop(
    shape: tuple[int, int], size: int, scale: float, side: int
) -> None:
    image = noise(*shape)
    resized = adm_resize(Image.fromarray(image), side)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    cropped = resized.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1)
    expected = torch.stack(functional.ten_crop(pixels, [size, size])).permute(0, 2, 3, 1).numpy()
    crops = ten_crop(image, size, scale)
    assert crops.shape == (10, size, size, 3)
    np.testing.assert_array_equal(crops, expected)


def test_mirror_images_follow_the_images() -> None:
    images = np.stack([noise(4, 5), noise(5, 5)[:4]])
    both = with_mirror_images(images)
    np.testing.assert_array_equal(both[:2], images)
    for index in range(2):
        for column in range(5):
            np.testing.assert_array_equal(both[2 + index, :, column], images[index, :, 4 - column])


def test_row_generators_depend_on_seed_epoch_and_key() -> None:
    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    draws = [row_generator(*key).random() for key in keys]
    assert len(set(draws)) == 4
    assert row_generator(0, 0, "a").random() == draws[0]


def test_all_levels_survive_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    images = to_model_range(levels, torch.device("cpu"))
    assert images.shape == (1, 3, 16, 16)
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_uint8(images), levels)


def test_channels_stay_in_order() -> None:
    pixels = np.zeros((1, 2, 3, 3), dtype=np.uint8)
    pixels[0, 1, 2] = (255, 0, 51)
    image = to_model_range(pixels, torch.device("cpu"))
    torch.testing.assert_close(image[0, :, 1, 2], torch.tensor([1.0, -1.0, -0.6]))


def test_pixels_are_clipped_and_rounded_half_up() -> None:
    levels = torch.tensor([-9.0, 999.0, 126.49, 126.51, 127.5])
    images = (levels / 127.5 - 1).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert to_uint8(images)[0, 0, :, 0].tolist() == [0, 255, 126, 127, 128]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    images = torch.zeros(3, 3, 2, 2)
    images[1, 0, 0, 0] = value
    with pytest.raises(ValueError, match="image 1 of 3"):
        to_uint8(images)
