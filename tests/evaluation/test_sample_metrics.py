"""What samples show beside their distance: values by hand, chance levels, and reasons where there is no value."""

import re

import numpy as np
import pytest

from glotok_ray.config import EvaluateRun
from glotok_ray.evaluation import plan
from glotok_ray.evaluation.sample_metrics import (
    Labelled,
    nearest_training_metrics,
    own_class_metrics,
)


def labelled(features: list[float], labels: list[int]) -> Labelled:
    """In two blocks."""
    vectors = np.array(features)[:, None]
    return Labelled([vectors[:1], vectors[1:]], np.array(labels, np.int32))


VALIDATION = labelled([0, 2, 10, 14], [0, 0, 1, 1])


def test_samples_are_counted_beside_chance_and_ceiling() -> None:
    found = own_class_metrics(labelled([1, 1, 3, 13], [0, 1, 0, 1]), VALIDATION, None, 2, 64)
    assert found["samples_own_class"]["value"] == 0.75
    assert found["validation_own_class"]["value"] == 1
    for entry in found.values():
        assert entry["chance"] == 0.5
        for part in (
            "EfficientNet-Lite0",
            "64 x 64",
            "4 validation crops",
            "most frequent of their classes gives 0.5",
        ):
            assert part in entry["protocol"]


def test_with_training_crops_the_class_means_are_theirs() -> None:
    training = labelled([-5, -3, 5, 9], [1, 1, 0, 0])  # means 7 and -4
    found = own_class_metrics(
        labelled([1, 1, 3, 13], [0, 1, 0, 1]), labelled([2], [0]), training, 2, 64
    )
    assert found["samples_own_class"]["value"] == 0.5
    assert found["validation_own_class"]["value"] == 1
    for entry in found.values():
        assert "2 class means of 4 training crops" in entry["protocol"]
        assert "leaves it out" not in entry["protocol"]


def test_a_class_without_training_crops_has_no_mean() -> None:
    found = own_class_metrics(labelled([1, 2], [0, 1]), VALIDATION, labelled([1, 2], [1, 1]), 2, 64)
    for entry in found.values():
        assert entry["value"] is None
        assert "1 of 2 classes have fewer than 1 training crops" in entry["protocol"]


def test_classes_without_training_crops_are_left_out_with_their_images() -> None:
    """Of three classes the second has none, as a rare one of which nothing is drawn."""
    training = labelled([0, 2, 10, 14], [0, 0, 2, 2])  # means 1 and 12
    samples = labelled([1, 13, 6, 5, 9], [0, 2, 1, 2, 2])
    validation = labelled([0, 5, 11], [0, 1, 2])
    found = own_class_metrics(samples, validation, training, 3, 64)
    assert found["samples_own_class"]["value"] == 0.75
    assert found["samples_own_class"]["chance"] == 0.75  # three of four are of class 2
    assert found["validation_own_class"]["value"] == 1
    assert found["validation_own_class"]["chance"] == 0.5
    for entry in found.values():
        assert "2 class means of 4 training crops; 1 of 3 classes, with fewer" in entry["protocol"]
        assert entry["facts"] == {"classes": 3, "classes_with_mean": 2}
    assert found["samples_own_class"]["protocol"].startswith("Share of 4 samples")
    alone = labelled([6, 5], [1, 1])
    for entry in own_class_metrics(alone, validation, training, 3, 64).values():
        assert entry["value"] is None
        assert "the first is class 1, and no other has samples" in entry["protocol"]


def test_validation_crops_alone_of_their_class_are_left_out_too() -> None:
    validation = labelled([0, 2, 10, 14, 50], [0, 0, 1, 1, 2])
    found = own_class_metrics(labelled([1, 49], [0, 2]), validation, None, 3, 64)
    assert found["samples_own_class"]["value"] == found["validation_own_class"]["value"] == 1
    assert "Share of 1 samples" in found["samples_own_class"]["protocol"]
    assert "2 class means of 4 validation crops; 1 of 3" in found["samples_own_class"]["protocol"]


def test_naming_the_larger_class_is_no_better_than_chance() -> None:
    """All samples look alike; nine of ten were drawn for the class that they look like."""
    samples = labelled([0] * 10, [0] * 9 + [1])
    found = own_class_metrics(samples, VALIDATION, None, 2, 64)["samples_own_class"]
    assert found["value"] == found["chance"] == 0.9


@pytest.mark.parametrize(
    ("validation", "samples", "reason"),
    [
        (labelled([0, 2, 10], [0, 0, 1]), [0, 1], "1 of 2 classes have fewer than 2 .* class 1"),
        (VALIDATION, [0, 2], "labels of the samples reach from 0 to 2"),
    ],
)
def test_a_share_without_meaning_is_null_with_its_reason(validation, samples, reason) -> None:
    found = own_class_metrics(labelled([1, 2], samples), validation, None, 2, 64)
    for entry in found.values():
        assert entry["value"] is None
        assert pytest.approx(0.5) == entry["chance"]
        assert entry["protocol"].startswith("Undefined here (")
    assert re.search(reason, found["samples_own_class"]["protocol"])


@pytest.mark.parametrize(("drawn", "text"), [(0, "(all)"), (3, "(drawn by the seed)")])
def test_the_median_distance_to_the_nearest_training_crop(drawn: int, text: str) -> None:
    training = np.array([[0.0], [10.0], [20.0]])
    samples, validation = (
        np.array([[0.0], [10.5], [23.0]]),
        np.array([[4.0], [12.0], [20.0], [26.0]]),
    )
    config = EvaluateRun(training_images=drawn, feature_size=64)
    found = nearest_training_metrics(
        {
            plan.SAMPLES: [samples],
            plan.VALIDATION: [validation[:1], validation[1:]],
            plan.DECODED: [np.array([[2.0], [11.0]])],
        },
        [training],
        len(training),
        config,
    )
    assert found["samples_nearest_training"]["value"] == 0.5
    assert found["validation_nearest_training"]["value"] == 3
    assert f"of 3 training crops {text}" in found["validation_nearest_training"]["protocol"]
    assert found["decoded_nearest_training"]["value"] == 1.5
    protocol = found["decoded_nearest_training"]["protocol"]
    assert "2 of these training crops, drawn by the seed, encoded and decoded" in protocol
    for entry in found.values():
        assert entry["facts"]["reference_images"] == 3
        assert ("drawn" in entry["facts"]["reference"]) == bool(drawn)
    protocol = found["samples_nearest_training"]["protocol"]
    assert "3 samples" in protocol
    assert "far below that of the validation crops means that samples are copies" in protocol
