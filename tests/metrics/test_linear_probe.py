"""The linear probe: features by hand, separable classes, chance, and the same digits however codes are cut."""

import numpy as np
import pytest

from glotok_ray.metrics.linear_probe import (
    Labelled,
    UndefinedProbeError,
    code_histograms,
    linear_probe,
    pooled_vectors,
    standardised,
)


def codes_of_classes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes: each draws half of its codes from four codes of its own, the rest from all 16."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    own = 4 * labels[:, None] + generator.integers(4, size=(count, 8))
    rest = generator.integers(16, size=(count, 8))
    return np.concatenate([own, rest], axis=1).astype(np.uint16), labels


def test_features_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 4.0], [2.0, 2.0]])
    codes = np.array([[0, 0, 1, 1], [2, 2, 2, 2]], np.uint16)
    np.testing.assert_array_equal(
        pooled_vectors([codes[:1], codes[1:]], vectors), [[0.5, 2], [2, 2]]
    )
    found = code_histograms([codes[:1], codes[1:]], 3).toarray()
    np.testing.assert_allclose(found, np.sqrt([[1.5, 1.5, 0], [0, 0, 3]]))
    np.testing.assert_allclose((found**2).mean(axis=1), 1)


def test_standardised_takes_the_training_rows_and_leaves_constants_at_zero() -> None:
    training = np.array([[0.0, 0.1], [2.0, 0.1], [4.0, 0.1]])
    known, others = standardised(training, np.array([[2.0, 9.0]]))
    np.testing.assert_allclose(known.std(axis=0), [1, 0])
    np.testing.assert_array_equal(others, [[0, 0]])


@pytest.mark.parametrize("cut", [7, 300])
def test_codes_of_a_class_are_told_apart_with_the_same_digits_however_they_come(cut: int) -> None:
    (codes, labels), (others, asked) = codes_of_classes(300, 0), codes_of_classes(150, 1)
    blocks = [codes[start : start + cut] for start in range(0, 300, cut)]
    training = Labelled(code_histograms(blocks, 16), labels)
    test = Labelled(code_histograms([others], 16), asked)
    found = linear_probe(training, test, num_classes=3, l2=1e-3)
    assert found.converged
    assert found.accuracy == 1
    # Half of Wilson's interval of one standard error: no finite number of images makes sure.
    assert found.standard_error == pytest.approx(1 / 302)
    whole = Labelled(code_histograms([codes], 16), labels)
    assert linear_probe(whole, test, num_classes=3, l2=1e-3) == found


def test_labels_without_meaning_are_told_at_chance() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(2000, 4)), generator.integers(4, size=2000)
    training, test = (
        Labelled(features[part], labels[part]) for part in (slice(1000), slice(1000, None))
    )
    found = linear_probe(training, test, num_classes=4, l2=1e-3)
    assert found.standard_error == pytest.approx(
        np.sqrt(found.accuracy * (1 - found.accuracy) / 1000)
    )
    assert abs(found.accuracy - 0.25) < 4 * found.standard_error


def test_one_class_and_labels_outside_are_refused() -> None:
    features = np.zeros((4, 2))
    with pytest.raises(UndefinedProbeError, match="less than two classes"):
        linear_probe(
            Labelled(features, np.ones(4, int)),
            Labelled(features, np.ones(4, int)),
            num_classes=2,
            l2=1.0,
        )
    with pytest.raises(ValueError, match="labels reach from 0 to 3"):
        linear_probe(
            Labelled(features, np.arange(4)),
            Labelled(features, np.zeros(4, int)),
            num_classes=2,
            l2=1.0,
        )
