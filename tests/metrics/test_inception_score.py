"""Inception Scores with known answers, in any partition, and those of torch-fidelity."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from glotok_ray.metrics.inception_score import (
    InceptionSums,
    inception_score,
    split_numbers,
)

SURE = 1e4


def one_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    return SURE * np.eye(num_classes)[classes]


def test_equal_images_score_1() -> None:
    logits = np.tile(np.random.default_rng(0).normal(size=7), (20, 1))
    score = inception_score(logits, num_splits=4)
    assert score.mean == pytest.approx(1, abs=1e-12)
    assert score.standard_deviation == pytest.approx(0, abs=1e-12)


def test_sure_and_balanced_classes_score_their_number() -> None:
    score = inception_score(one_hot(np.arange(60) % 12, 12), num_splits=5)
    assert score.mean == pytest.approx(12)
    assert score.standard_deviation == pytest.approx(0, abs=1e-9)


def test_two_images_by_hand() -> None:
    logits = np.log([[0.9, 0.1], [0.1, 0.9]])
    assert inception_score(logits, num_splits=1).mean == pytest.approx(1.4449348, abs=5e-8)


def test_splits_of_sorted_classes_tell_the_orders_apart() -> None:
    logits = one_hot(np.repeat(np.arange(20), 30), 20)
    assert inception_score(logits, num_splits=10).mean == pytest.approx(2)
    shuffled = inception_score(logits, num_splits=10, order="shuffled").mean
    assert 14 < shuffled < 20


def test_a_constant_does_not_change_the_score() -> None:
    logits = np.random.default_rng(1).normal(size=(30, 9)) * 3
    moved = logits + np.random.default_rng(2).normal(size=(30, 1)) * 100
    assert inception_score(moved) == pytest.approx(inception_score(logits), rel=1e-12)


@pytest.mark.parametrize("num_images", [40, 43])
@pytest.mark.parametrize("order", ["contiguous", "shuffled"])
def test_scores_are_those_of_torch_fidelity(num_images: int, order: str) -> None:
    logits = (np.random.default_rng(3).normal(size=(num_images, 11)) * 4).astype(np.float32)
    expected = isc_features_to_metric(torch.from_numpy(logits), 10, order == "shuffled", 2020)
    found = inception_score(logits, order=order)
    assert found.mean == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert found.standard_deviation == pytest.approx(expected["inception_score_std"], rel=1e-9)


def test_another_seed_is_another_order() -> None:
    logits = np.random.default_rng(4).normal(size=(50, 5)) * 4
    expected = isc_features_to_metric(torch.from_numpy(logits), 10, True, 7)
    found = inception_score(logits, order="shuffled", seed=7)
    assert found.mean == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert found.mean != inception_score(logits, order="shuffled").mean


def test_sums_of_any_partition_are_those_of_all() -> None:
    logits = np.random.default_rng(5).normal(size=(37, 6)) * 3
    splits = split_numbers(37, 4, order="shuffled")
    merged = InceptionSums.empty(4, 6)
    for rows in np.split(np.arange(37), [3, 3, 11, 30]):
        merged = merged.merge(InceptionSums.of(logits[rows], splits[rows], 4))
    assert merged.counts.tolist() == [9, 9, 9, 10]
    whole = inception_score(logits, num_splits=4, order="shuffled")
    assert merged.score() == pytest.approx(whole, rel=1e-12)


def test_adm_s_splits_at_50000_images_hold_5000_neighbours() -> None:
    np.testing.assert_array_equal(split_numbers(50_000, 10), np.arange(50_000) // 5_000)


def test_what_has_no_score_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_splits = 5: must lie between 1 and .* images, 4"):
        split_numbers(4, 5)
    with pytest.raises(ValueError, match="num_splits = 0"):
        split_numbers(4, 0)
    with pytest.raises(ValueError, match="order = 'sorted'"):
        split_numbers(4, 2, order="sorted")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="logits: hold values that are not finite"):
        inception_score(np.array([[0.0, np.nan]]), num_splits=1)
    with pytest.raises(ValueError, match="2 numbers for 3 images"):
        InceptionSums.of(np.zeros((3, 2)), np.zeros(2, int), 1)
    with pytest.raises(ValueError, match="between 0 and 1, found 2"):
        InceptionSums.of(np.zeros((3, 2)), np.arange(3), 2)
    with pytest.raises(ValueError, match="split 1 of 2 holds no image"):
        InceptionSums.of(np.zeros((3, 2)), np.zeros(3, int), 2).score()
