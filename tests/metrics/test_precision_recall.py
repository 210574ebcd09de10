"""Precision and recall with known answers, in blocks of any size, and those of torch-fidelity."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import (
    calculate_precision_recall_full,
    calculate_precision_recall_part,
)

from glotok_ray.metrics.precision_recall import ball_radii, covered, precision_recall


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def test_identical_sets(generator: np.random.Generator) -> None:
    features = generator.normal(size=(40, 6))
    assert precision_recall(features, features) == (1, 1)


def test_sets_far_apart(generator: np.random.Generator) -> None:
    features = generator.normal(size=(40, 6))
    assert precision_recall(features, features + 100) == (0, 0)


def test_a_collapsed_generator_is_precise_and_recalls_little(
    generator: np.random.Generator,
) -> None:
    reference = generator.normal(size=(400, 2))
    samples = 0.01 * generator.normal(size=(50, 2))
    found = precision_recall(samples, reference)
    assert found.precision == 1
    assert found.recall < 0.05


def test_a_part_of_the_reference_drawn_twice_is_precise(generator: np.random.Generator) -> None:
    reference = generator.normal(size=(60, 3))
    # Copies have their copies as nearest neighbours, so balls of the samples are no points with 4 of each.
    found = precision_recall(np.repeat(reference[:20], 2, axis=0), reference)
    assert found.precision == 1
    assert 20 / 60 <= found.recall < 1


def test_the_radius_of_points_on_a_line_by_hand() -> None:
    points = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
    # Distances of 0: 1, 3, 7, 15; of 1: 1, 2, 6, 14; of 3: 2, 3, 4, 12; of 7: 4, 6, 7, 8; of 15: 8, 12, 14, 15.
    np.testing.assert_array_equal(ball_radii(points), [49, 36, 16, 49, 196])
    np.testing.assert_array_equal(ball_radii(points, 1), [1, 1, 4, 16, 64])


def test_the_border_of_a_ball_belongs_to_it() -> None:
    centres, radii = np.array([[0.0], [10.0]]), np.array([4.0, 1.0], np.float32)
    points = np.array([[2.0], [2.5], [9.0], [-2.0], [12.0]])
    assert covered(points, centres, radii).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("rows", [1, 7, 64, 4096])
def test_blocks_of_any_size_give_the_same(generator: np.random.Generator, rows: int) -> None:
    samples, reference = generator.normal(size=(53, 4)), generator.normal(size=(31, 4)) + 0.4
    found = precision_recall(samples, reference, rows=rows)
    assert found == precision_recall(samples, reference)
    assert found.precision != found.recall
    assert 0 < found.precision < 1


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_shares_are_those_of_torch_fidelity(
    generator: np.random.Generator, neighbours: int
) -> None:
    samples = generator.normal(size=(150, 16)).astype(np.float32)
    reference = (generator.normal(size=(60, 16)) * 1.1 + 0.1).astype(np.float32)
    found = precision_recall(samples, reference, neighbours=neighbours, rows=32)
    for function in (calculate_precision_recall_part, calculate_precision_recall_full):
        expected = function(torch.from_numpy(samples), torch.from_numpy(reference), neighbours, 50)
        assert found == pytest.approx(expected, rel=1e-6)


def test_distances_are_those_of_the_definition(generator: np.random.Generator) -> None:
    """Against a plain statement of it in float64."""
    samples, reference = generator.normal(size=(30, 5)), generator.normal(size=(20, 5)) * 0.8

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(a[:, np.newaxis] - b[np.newaxis]).sum(axis=2)

    radii = [np.sort(squared(x, x), axis=1)[:, 3] for x in (samples, reference)]
    between = squared(samples, reference)
    precise, recalled = between <= radii[1], (between <= radii[0][:, np.newaxis]).T
    assert precision_recall(samples, reference) == pytest.approx(
        (precise.any(axis=1).mean(), recalled.any(axis=1).mean())
    )
    np.testing.assert_allclose(ball_radii(samples), radii[0], rtol=1e-5)


def test_what_has_no_balls_is_refused(generator: np.random.Generator) -> None:
    features = generator.normal(size=(10, 3))
    assert precision_recall(features[:4], features[:4]) == (1, 1)
    with pytest.raises(ValueError, match=r"reference has shape \(3, 3\): .* at least 4"):
        precision_recall(features, features[:3])
    with pytest.raises(ValueError, match="neighbours = 0"):
        precision_recall(features, features, neighbours=0)
    with pytest.raises(ValueError, match="widths differ"):
        precision_recall(features, features[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        precision_recall(np.where(features > 1, np.nan, features), features)
