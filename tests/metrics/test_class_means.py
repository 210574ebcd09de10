"""Shares of the own class by hand: points on a line and their class means."""

import numpy as np
import pytest

from glotok_ray.metrics.class_means import (
    class_means,
    own_class_share,
    own_class_share_left_out,
)

POINTS = np.array([[0.0], [2.0], [10.0], [14.0]])
LABELS = np.array([0, 0, 1, 1])


def test_means_and_counts_are_those_of_the_classes() -> None:
    found = class_means([POINTS.astype(np.float32)], LABELS, 2)
    np.testing.assert_array_equal(found.means, [[1.0], [12.0]])
    np.testing.assert_array_equal(found.counts, [2, 2])
    assert found.means.dtype == np.float64


def test_the_share_is_of_vectors_nearest_to_their_own_mean() -> None:
    classes = class_means([POINTS], LABELS, 2)  # means 1 and 12, the border at 6.5
    drawn = np.array([[6.0], [7.0], [6.0], [7.0]])
    assert own_class_share([drawn], np.array([0, 1, 1, 0]), classes) == 0.5
    assert own_class_share([drawn], np.array([0, 1, 0, 1]), classes) == 1


def test_a_common_offset_costs_no_digits() -> None:
    offset = 1e7
    classes = class_means([POINTS + offset], LABELS, 2)
    drawn = np.array([[6.49], [6.51]]) + offset
    assert own_class_share([drawn], np.array([0, 1]), classes) == 1


def test_a_vector_is_not_compared_with_a_mean_that_holds_it() -> None:
    # Without it the mean of class 0 is the other point, 9, which is further from 0 than the mean 5 of class 1.
    points = np.array([[0.0], [9.0], [4.0], [6.0]])
    labels = np.array([0, 0, 1, 1])
    classes = class_means([points], labels, 2)
    assert (
        own_class_share([points], labels, classes) == 0.5
    )  # 0 and 9 have the mean 4.5, 4 and 6 the mean 5
    left_out = []
    for place, (point, label) in enumerate(zip(points, labels, strict=True)):
        others = np.arange(4) != place
        means = class_means([points[others]], labels[others], 2).means
        left_out.append(np.argmin(np.square(means - point)) == label)
    assert own_class_share_left_out([points], labels, classes) == np.mean(left_out)


def test_leaving_out_agrees_with_means_made_anew_over_blocks() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(1300) % 3
    features = generator.normal(size=(1300, 4)) + 0.5 * np.eye(4)[labels]
    classes = class_means([features[:700], features[700:]], labels, 3)
    correct = 0
    for place in range(len(labels)):
        means, counts = classes.means.copy(), classes.counts
        own = labels[place]
        means[own] = (counts[own] * means[own] - features[place]) / (counts[own] - 1)
        correct += int(np.square(means - features[place]).sum(axis=1).argmin() == own)
    assert own_class_share_left_out([features[:9], features[9:]], labels, classes) == correct / len(
        labels
    )


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="class 2 has no vector"):
        class_means([POINTS], LABELS, 3)
    with pytest.raises(ValueError, match=r"labels reach from 0 to 1: must be in \[0, 1\)"):
        class_means([POINTS], LABELS, 1)
    with pytest.raises(ValueError, match="class 1 has 1 vector"):
        own_class_share_left_out([POINTS[:3]], LABELS[:3], class_means([POINTS[:3]], LABELS[:3], 2))
    broken = np.where(POINTS == 2, np.nan, POINTS)
    with pytest.raises(ValueError, match="not finite"):
        class_means([broken], LABELS, 2)
    with pytest.raises(ValueError, match="not finite"):
        own_class_share([broken], LABELS, class_means([POINTS], LABELS, 2))


def test_no_digit_of_a_mean_depends_on_where_blocks_end() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(500, 7)).astype(np.float32)
    labels = generator.integers(3, size=500)
    whole = np.stack([features[labels == k].mean(axis=0, dtype=np.float64) for k in range(3)])
    for edges in ([], [1, 2, 64, 64, 499]):
        found = class_means(np.split(features, edges), labels, 3).means
        np.testing.assert_array_equal(found, whole)
