"""Frechet distances with known answers."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from glotok_ray.metrics import frechet
from glotok_ray.metrics.frechet import (
    FeatureMoments,
    frechet_distance,
    frechet_distance_of_features,
    frechet_distance_of_summaries,
    rank_warning,
    summarize,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_equal_statistics_are_at_distance_zero(generator: np.random.Generator) -> None:
    factor = generator.normal(size=(6, 6))
    covariance = factor @ factor.T
    mean = generator.normal(size=6)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-9)


def test_mean_shift_counts_squared(generator: np.random.Generator) -> None:
    factor = generator.normal(size=(5, 5))
    shift = np.array([3.0, 0.0, 4.0, 0.0, 0.0])
    distance = frechet_distance(np.zeros(5), factor @ factor.T, shift, factor @ factor.T)
    assert distance == pytest.approx(25, abs=1e-9)


def test_scaled_identities() -> None:
    distance = frechet_distance(np.zeros(8), 4 * np.eye(8), np.zeros(8), 9 * np.eye(8))
    assert distance == pytest.approx(8 * (2 - 3) ** 2)


def test_one_dimensional_gaussians() -> None:
    distance = frechet_distance(np.array([1.0]), np.eye(1) * 4, np.array([3.0]), np.eye(1) * 25)
    assert distance == pytest.approx((1 - 3) ** 2 + (2 - 5) ** 2)


def test_commuting_covariances(generator: np.random.Generator) -> None:
    rotation = np.linalg.qr(generator.normal(size=(7, 7)))[0]
    first, second = generator.uniform(0.1, 4, size=(2, 7))
    distance = frechet_distance(
        np.zeros(7), (rotation * first) @ rotation.T, np.zeros(7), (rotation * second) @ rotation.T
    )
    assert distance == pytest.approx(((np.sqrt(first) - np.sqrt(second)) ** 2).sum())


def test_mixed_precision_statistics_are_accepted() -> None:
    mean = np.ones(3, np.float32)
    assert frechet_distance(mean, np.eye(3), np.zeros(3), np.eye(3, dtype=np.float32)) == (
        pytest.approx(3)
    )


def test_low_rank_route_equals_the_covariance_route(generator: np.random.Generator) -> None:
    a = generator.normal(size=(12, 30)) @ generator.normal(size=(30, 30))
    b = generator.normal(size=(17, 30)) + 0.5
    expected = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    # The covariance route loses half the digits in the null space, hence the loose tolerance.
    assert frechet_distance_of_features(a, b) == pytest.approx(expected, rel=1e-4)


def test_low_rank_route_is_exact_where_only_the_scale_differs(
    generator: np.random.Generator,
) -> None:
    features = generator.normal(size=(20, 200))
    distance = frechet_distance_of_features(features, 1.1 * features)
    moved = ((0.1 * features.mean(0)) ** 2).sum()
    assert distance == pytest.approx(moved + 0.01 * np.trace(np.cov(features.T)), rel=1e-11)


@pytest.mark.parametrize("count", [15, 60])
def test_symmetry_rotation_and_scale(generator: np.random.Generator, count: int) -> None:
    a = generator.normal(size=(count, 20))
    b = generator.normal(size=(count + 3, 20)) * 1.5 + 0.2
    distance = frechet_distance_of_features(a, b)
    rotation = np.linalg.qr(generator.normal(size=(20, 20)))[0]
    assert frechet_distance_of_features(b, a) == pytest.approx(distance)
    assert frechet_distance_of_features(a @ rotation, b @ rotation) == pytest.approx(distance)
    assert frechet_distance_of_features(3 * a, 3 * b) == pytest.approx(9 * distance)
    assert frechet_distance_of_features(a, a) == pytest.approx(0, abs=1e-9)


def test_moments_of_any_partition_equal_numpy(generator: np.random.Generator) -> None:
    features = 1e4 + generator.normal(size=(50, 4))
    whole = FeatureMoments.empty(4)
    for part in np.split(features, [1, 20, 20, 33]):
        whole = whole.merge(FeatureMoments.of(part))
    assert whole.count == 50
    np.testing.assert_allclose(whole.mean, features.mean(0), rtol=1e-13)
    np.testing.assert_allclose(whole.covariance(), np.cov(features.T), rtol=1e-9)


def test_single_vectors_and_broken_features_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance_of_features(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="at least 2"):
        FeatureMoments.of(np.zeros((1, 3))).covariance()
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance_of_features(np.full((4, 3), np.nan), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="widths"):
        frechet_distance_of_features(np.zeros((4, 3)), np.zeros((4, 2)))


def test_moments_that_are_not_finite_are_refused() -> None:
    broken = np.ones((4, 3))
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        FeatureMoments.of(broken)
    with pytest.raises(ValueError, match="moments: hold values that are not finite"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.full((3, 3), np.inf))


@pytest.mark.parametrize(("first", "second"), [(15, 12), (15, 60), (60, 15), (60, 90)])
def test_summaries_of_blocks_give_the_distance_of_all_features(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    monkeypatch.setattr(frechet, "_ROWS_PER_BLOCK", 8)
    a = generator.normal(size=(first, 20)) @ generator.normal(size=(20, 20)) + 3
    b = generator.normal(size=(second, 20)) * 1.5 + 3.2
    expected = frechet_distance_of_features(a, b)
    found = {
        frechet_distance_of_summaries(
            summarize(np.split(a, edges)), summarize(np.split(b, edges[:2]))
        )
        for edges in ([], [1, 2, 11], [5, 10, 14])
    }
    # No digit depends on where blocks end.
    assert len(found) == 1
    assert found.pop() == pytest.approx(expected, rel=1e-9)
    kept = summarize([a]).rows
    assert (kept is not None) == (first <= 20)


def test_few_vectors_beside_many_lose_no_digits_where_spectra_fall_steeply(
    generator: np.random.Generator,
) -> None:
    scales = 10.0 ** -np.linspace(0, 4, 60)
    a, b = generator.normal(size=(40, 60)) * scales, generator.normal(size=(400, 60)) * scales
    expected = frechet_distance_of_features(a, b)
    found = frechet_distance_of_summaries(summarize([a]), summarize([b]))
    assert found == pytest.approx(expected, rel=1e-9)


def test_summaries_without_a_distance_are_refused() -> None:
    with pytest.raises(ValueError, match="there are none"):
        summarize([])
    with pytest.raises(ValueError, match="not finite"):
        summarize([np.zeros((3, 2)), np.full((1, 2), np.inf)])
    with pytest.raises(ValueError, match="set b has 1 vectors: needs at least 2"):
        frechet_distance_of_summaries(summarize([np.eye(3)]), summarize([np.ones((1, 3))]))
    with pytest.raises(ValueError, match="widths differ: 3 and 2"):
        frechet_distance_of_summaries(summarize([np.eye(3)]), summarize([np.eye(2)]))


def test_too_few_vectors_for_full_rank_are_told() -> None:
    assert rank_warning(2049, 2048) == ""
    text = rank_warning(2048, 2048, "samples")
    assert text.startswith("2,048 samples of width 2,048 give a covariance of rank 2,047 at most")
    assert text.endswith("take at least 2,049 images")
    assert "rank 0 at most" in rank_warning(0, 5)


def test_distances_are_those_of_torch_fidelity(generator: np.random.Generator) -> None:
    a = generator.normal(size=(90, 24)) @ generator.normal(size=(24, 24))
    b = generator.normal(size=(80, 24)) * 1.3 + 0.2
    expected = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(values)) for values in (a, b)), verbose=False
    )["frechet_inception_distance"]
    found = frechet_distance_of_summaries(summarize([a[:17], a[17:]]), summarize([b]))
    assert found == pytest.approx(expected, rel=1e-9)
    assert frechet_distance_of_features(a, b) == pytest.approx(expected, rel=1e-9)


def test_low_rank_differences_by_hand() -> None:
    """Variances 1 and 1.21 on a quarter of the dimensions, 0 elsewhere."""
    ones = np.diag([1.0] * 5 + [0.0] * 15)
    assert frechet_distance(np.zeros(20), ones, np.zeros(20), 1.21 * ones) == pytest.approx(0.05)
