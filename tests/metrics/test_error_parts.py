"""Parts of the squared error: they add up to the whole, and waves lie in the band of their frequency."""

import numpy as np
import pytest

from glotok_ray.metrics.error_parts import BANDS, PARTS, band_of_frequencies, squared_error_parts
from glotok_ray.metrics.reconstruction import psnr, psnr_of_error


@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 50), (16, 16)])
def test_bands_add_up_to_the_whole_error(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    images, others = generator.integers(0, 256, (2, 3, height, width, 3), dtype=np.uint8)
    errors = squared_error_parts(images, others)
    assert errors.shape == (3, len(PARTS))
    whole = errors[:, : len(BANDS)].sum(axis=1)
    expected = ((images.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(whole, expected, rtol=1e-12)
    np.testing.assert_allclose(psnr_of_error(whole), psnr(images, others), rtol=1e-12)


@pytest.mark.parametrize(
    ("cycles_per_pixel", "band"),
    [
        (0, 0),
        (1 / 64, 0),
        (1 / 32, 1),
        (3 / 64, 1),
        (1 / 16, 2),
        (1 / 8, 3),
        (1 / 4, 4),
        (31 / 64, 4),
    ],
)
def test_a_wave_lies_in_the_band_of_its_frequency(cycles_per_pixel: float, band: int) -> None:
    # A function of the cosine transform itself, so that nothing leaks.
    wave = 50 * np.cos(2 * np.pi * cycles_per_pixel * (np.arange(64) + 0.5))
    images = np.broadcast_to(wave[None, :, None, None], (1, 64, 64, 3))
    errors = squared_error_parts(images, 0.0)[0, : len(BANDS)]
    expected = np.zeros(len(BANDS))
    expected[band] = (wave**2).mean()
    np.testing.assert_allclose(errors, expected, atol=1e-12)


def test_the_highest_band_has_the_corner_of_both_axes() -> None:
    bands = band_of_frequencies(64, 32)
    assert bands.shape == (64, 32)
    assert (bands[0, 0], bands[-1, -1], bands[-1, 0], bands[0, -1]) == (0, 4, 4, 4)
    # 1/8 along both axes together is more than 1/8.
    assert bands[15, 0] == 2
    assert bands[15, 7] == 3


def test_grey_errors_are_luma_and_colour_errors_chroma() -> None:
    images = np.full((1, 16, 16, 3), 100, np.uint8)
    grey = squared_error_parts(images, 110.0)[0]
    np.testing.assert_allclose(grey[-2:], [100, 0], atol=1e-12)
    assert grey[-1] == 0  # and not what rounding leaves
    # 0.299 * 1.402 = 0.587 * 0.714136: red against green at equal luma.
    colours = np.broadcast_to(np.array([1.402, -0.714136, 0.0]), (1, 16, 16, 3)) * 10
    luma, chroma = squared_error_parts(colours, 0.0)[0, -2:]
    assert luma == pytest.approx(0, abs=1e-6)
    assert chroma == pytest.approx(50, rel=1e-4)  # Cr alone, 10 grey levels of it


def test_equal_images_have_no_error_and_other_shapes_are_refused() -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert not squared_error_parts(images, images).any()
    assert np.isposinf(psnr_of_error(np.zeros(1))).all()
    with pytest.raises(ValueError, match="must be"):
        squared_error_parts(images[0], images[0])
    with pytest.raises(ValueError, match="need equal"):
        squared_error_parts(images[:, :8], images)
