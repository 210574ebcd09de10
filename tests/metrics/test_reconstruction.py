"""PSNR and SSIM against closed forms and scikit-image."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from glotok_ray.evaluation.entries import metric_entry
from glotok_ray.metrics.reconstruction import ScoreSum, psnr, ssim


def constant(value: int, count: int = 1) -> np.ndarray:
    return np.full((count, 16, 16, 3), value, np.uint8)


@pytest.mark.parametrize(("error", "expected"), [(1, 48.1308036), (10, 28.1308036), (255, 0.0)])
def test_psnr_of_a_constant_error(error: int, expected: float) -> None:
    # 0 against `error` would wrap around in uint8 arithmetic.
    assert psnr(constant(0), constant(error))[0] == pytest.approx(expected, abs=1e-6)


def test_psnr_is_averaged_over_images_not_pixels() -> None:
    images = constant(100, 2)
    others = np.concatenate([constant(101), constant(110)])
    summed = ScoreSum.of(psnr(images, others))
    assert summed.mean == pytest.approx(38.1308036, abs=1e-6)
    assert summed.standard_deviation == pytest.approx(10.0)


def test_identical_images_are_counted_apart() -> None:
    images = np.concatenate([constant(9), constant(9), constant(5)])
    others = np.concatenate([constant(9), constant(10), constant(5)])
    summed = ScoreSum().merge(ScoreSum.of(psnr(images[:2], others[:2])))
    summed = summed.merge(ScoreSum.of(psnr(images[2:], others[2:])))
    assert (summed.count, summed.num_infinite) == (1, 2)
    assert summed.mean == pytest.approx(48.1308036, abs=1e-6)
    assert np.isnan(ScoreSum().mean)
    # One score says nothing of a spread.
    assert np.isnan(summed.standard_deviation)
    entry = metric_entry("PSNR", summed.mean, "p", summed.standard_deviation)
    assert entry["value"] == summed.mean
    assert "std" not in entry


def test_ssim_equals_scikit_image() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(3, 24, 31, 3), dtype=np.uint8)
    noise = generator.integers(-40, 41, size=images.shape)
    others = np.clip(images + noise, 0, 255).astype(np.uint8)
    expected = [
        structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
        )
        for a, b in zip(images, others, strict=True)
    ]
    np.testing.assert_allclose(ssim(images, others), expected, rtol=1e-9)


def test_ssim_of_constant_images_is_the_luminance_term() -> None:
    stability = (0.01 * 255) ** 2
    expected = (2 * 50 * 200 + stability) / (50**2 + 200**2 + stability)
    assert ssim(constant(50), constant(200))[0] == pytest.approx(expected)
    assert ssim(constant(50), constant(50))[0] == pytest.approx(1.0)


def test_ssim_is_symmetric() -> None:
    images = np.random.default_rng(1).integers(0, 256, size=(2, 2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(ssim(images[0], images[1]), ssim(images[1], images[0]))


def test_other_types_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        psnr(constant(0).astype(np.float32), constant(0))
    with pytest.raises(ValueError, match="equal"):
        ssim(constant(0), constant(0, 2))
    with pytest.raises(ValueError, match="at least 11"):
        ssim(constant(0)[:, :8], constant(0)[:, :8])


def test_a_sum_of_scores_leaves_no_nan_out() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ScoreSum.of(np.array([20.0, np.nan]))
