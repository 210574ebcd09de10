"""Crops of other authors' evaluations, held against torchvision and against plain bilinear samples."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from glotok_ray.data.transforms import center_crop
from glotok_ray.evaluation.crop_protocols import CROP_TEXTS, own_crop

SIZES = ((101, 64), (75, 300), (64, 91), (33, 40), (64, 64))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("protocol", ["bilinear", "bicubic"])
def test_torchvision_s_crops(size: tuple[int, int], protocol: str) -> None:
    mode = InterpolationMode.BILINEAR if protocol == "bilinear" else InterpolationMode.BICUBIC
    theirs = Compose([Resize(64, mode), CenterCrop(64)])(Image.fromarray(picture(*size)))
    found = own_crop(picture(*size), 64, protocol)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, np.asarray(theirs))


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_samples_without_antialiasing(size: tuple[int, int]) -> None:
    height, width = size
    sides = [int(side * 64 / min(size) + 0.5) for side in size]
    image = torch.from_numpy(picture(*size)).permute(2, 0, 1)[None].double()
    sampled = F.interpolate(image, sides, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    top, left = (sides[0] - 64) // 2, (sides[1] - 64) // 2
    expected = sampled.add(0.5).floor().numpy()[top : top + 64, left : left + 64]
    found = own_crop(picture(height, width), 64, "plain_bilinear")
    # A sum next to a half may be rounded either way.
    assert np.abs(found.astype(float) - expected).max() <= 1
    assert (found == expected).mean() > 0.999


def test_a_square_of_that_side_stays_as_it_is_and_adm_s_crop_is_ours() -> None:
    square, wide = picture(64, 64), picture(75, 300)
    for protocol in CROP_TEXTS:
        np.testing.assert_array_equal(own_crop(square, 64, protocol), square)
    np.testing.assert_array_equal(own_crop(wide, 64, "adm"), center_crop(wide, 64))
    assert (own_crop(wide, 64, "bilinear") != center_crop(wide, 64)).mean() > 0.5
