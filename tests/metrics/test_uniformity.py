"""Uniformity of latent vectors: closed forms of the density stage, invariances, and the
companion from counts.
"""

import numpy as np
import pytest

from glotok_ray.metrics.uniformity import (
    UndefinedDensityError,
    code_uniformity,
    density_uniformity,
    draw_latent_vectors,
    kernel_density_uniformity,
    tsne_uniformity,
)


def sphere(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, width))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_densities_by_hand() -> None:
    metrics = density_uniformity(np.array([1.0, 3.0]))
    assert metrics.density_cv == pytest.approx(0.5)
    assert metrics.gini == pytest.approx(0.25)
    assert metrics.normalized_entropy == pytest.approx(0.8112781)


def test_equal_densities_are_perfectly_uniform() -> None:
    metrics = density_uniformity(np.full(9, 0.3))
    assert metrics == pytest.approx((0, 1, 0), abs=1e-12)


def test_kernel_density_of_a_gaussian_matches_its_closed_form() -> None:
    count = 4000
    points = np.random.default_rng(3).normal(size=(count, 2))
    metrics = kernel_density_uniformity(points)
    # The density at its own points is distributed as a power of a uniform variable.
    power = 1 / (1 + count ** (-1 / 3))
    assert metrics.density_cv == pytest.approx(
        np.sqrt((1 + power) ** 2 / (1 + 2 * power) - 1), abs=0.025
    )
    assert metrics.gini == pytest.approx(power / (power + 2), abs=0.015)
    entropy = 1 - (np.log(1 + power) - power / (1 + power)) / np.log(count)
    assert metrics.normalized_entropy == pytest.approx(entropy, abs=0.003)


def test_kernel_density_ignores_affine_maps() -> None:
    points = np.random.default_rng(4).uniform(size=(300, 2))
    moved = points @ np.array([[2.0, 0.3], [-1.0, 5.0]]) + 7
    assert kernel_density_uniformity(moved) == pytest.approx(kernel_density_uniformity(points))


def test_points_on_a_line_are_refused() -> None:
    with pytest.raises(ValueError, match="line"):
        kernel_density_uniformity(np.stack([np.arange(9.0), np.arange(9.0)], axis=1))


def test_tsne_figures_repeat_and_match_the_calibration_of_the_sphere() -> None:
    metrics = tsne_uniformity(sphere(150))
    assert metrics == tsne_uniformity(sphere(150))
    # Ten thousand uniform vectors on this sphere give 0.20 to 0.22 and 0.107 to 0.116.
    assert metrics.density_cv == pytest.approx(0.2, abs=0.05)
    assert metrics.gini == pytest.approx(0.11, abs=0.03)
    assert 0.98 < metrics.normalized_entropy < 1


def test_small_sets_lower_the_perplexity_and_collapse_is_named() -> None:
    assert np.isfinite(tsne_uniformity(sphere(8))).all()
    with pytest.raises(ValueError, match="3 distinct"):
        tsne_uniformity(np.repeat(sphere(3), 10, axis=0))


def test_draw_takes_one_standardised_vector_per_image() -> None:
    vectors = sphere(40)
    codes = np.random.default_rng(6).integers(40, size=(25, 16))
    drawn = draw_latent_vectors([codes[:7], codes[7:]], vectors, num_vectors=1000, seed=1, repeat=0)
    assert drawn.shape == (25, 8)
    again = draw_latent_vectors([codes], vectors, num_vectors=1000, seed=1, repeat=0)
    other = draw_latent_vectors([codes], vectors, num_vectors=1000, seed=1, repeat=1)
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(drawn, other)
    every_token = vectors[codes.reshape(-1)]
    standardised = (vectors - every_token.mean(0)) / every_token.std(0)
    distances = np.abs(drawn[:, None] - standardised[None]).max(-1).min(1)
    assert distances.max() < 1e-9


def test_companion_of_equal_codes_on_a_regular_polygon_is_uniform() -> None:
    angles = np.arange(12) * (2 * np.pi / 12)
    polygon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    metrics = code_uniformity(np.full(12, 5), polygon)
    assert metrics == pytest.approx((0, 1, 0), abs=1e-9)


def used(count: int) -> np.ndarray:
    """Counts of 16 codes, the first ones used alike."""
    return np.where(np.arange(16) < count, 3200, 0)


def rounded(vector: np.ndarray) -> np.ndarray:
    """16 vectors that differ by what fp32 rounds away."""
    return vector * (1 + 3e-8 * np.random.default_rng(2).normal(size=(16, 8)))


@pytest.mark.parametrize(
    ("counts", "vectors", "reason"),
    [
        (used(1), sphere(16), r"all used codes \(1\) are alike"),
        (used(16), np.repeat(sphere(1), 16, axis=0), r"all used codes \(16\) are alike"),
        (used(16), rounded(sphere(1)), "are alike"),
        (used(16), np.zeros((16, 8)), "are alike"),
        (used(2), sphere(16), "2 distinct vectors, which span 1 directions"),
        (used(3), sphere(16), "3 distinct vectors, which span 2 directions"),
        (used(9), sphere(16), "9 distinct vectors, which span 8 directions"),
        (used(16), np.repeat(sphere(2), 8, axis=0), "2 distinct vectors, which span 1"),
    ],
)
def test_companion_of_a_collapsed_codebook_is_undefined(
    counts: np.ndarray, vectors: np.ndarray, reason: str
) -> None:
    """Its points in whitened space would all have one density: perfectly uniform."""
    with pytest.raises(UndefinedDensityError, match=reason):
        code_uniformity(counts, vectors)
    tripled = code_uniformity(used(3), np.arange(16.0)[:, None] * sphere(1))  # three on a line
    assert tripled.density_cv > 0


def test_companion_equals_the_expanded_set() -> None:
    vectors, counts = sphere(30), np.random.default_rng(7).integers(0, 6, size=30)
    expanded = np.repeat(vectors, counts, axis=0)
    centred = expanded - expanded.mean(0)
    values, basis = np.linalg.eigh(centred.T @ centred / len(centred))
    white = centred @ basis / np.sqrt(values)
    distances = ((white[:, None] - white[None]) ** 2).sum(-1)
    kernels = np.exp(-0.5 * distances * 10000 ** (2 / 12))
    np.fill_diagonal(kernels, 0)
    expected = density_uniformity(kernels.sum(1) / (len(expanded) - 1))
    assert code_uniformity(counts, vectors) == pytest.approx(expected, rel=1e-9)


def test_companion_tells_skewed_use_from_even_use() -> None:
    vectors = sphere(1024)
    skewed = np.exp(np.random.default_rng(8).normal(size=1024) + 3).astype(int)
    even_figures = code_uniformity(np.full(1024, 20), vectors)
    assert code_uniformity(skewed, vectors).density_cv > 2 * even_figures.density_cv


def test_draws_and_densities_refuse_what_is_no_vector_and_no_code() -> None:
    vectors, codes = sphere(8), np.zeros((5, 4), np.int64)
    broken = vectors.copy()
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 8 code vectors"):
        draw_latent_vectors([codes], broken, num_vectors=4, seed=0, repeat=0)
    # An index from the end would be a plausible vector.
    codes[0, 0] = -1
    with pytest.raises(ValueError, match=r"from -1 to 0: must be in \[0, 8\)"):
        draw_latent_vectors([codes], vectors, num_vectors=4, seed=0, repeat=0)
    # Not for the reason of a collapsed codebook, which gives null.
    for measure in (tsne_uniformity, lambda found: code_uniformity(np.full(8, 3), found)):
        with pytest.raises(ValueError, match="NaN or infinite") as found:
            measure(broken)
        assert not isinstance(found.value, UndefinedDensityError)
    with pytest.raises(ValueError, match="densities"):
        density_uniformity(np.array([1.0, np.inf]))
    with pytest.raises(UndefinedDensityError, match="largest 0"):
        density_uniformity(np.zeros(3))
