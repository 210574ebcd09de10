"""Kernel distances by hand, and those of torch-fidelity."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_kid import kid_features_to_metric

from glotok_ray.metrics.kernel_distance import kernel_distance, squared_discrepancy


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(11)


def test_two_pairs_by_hand() -> None:
    a, b = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [3.0, -1.0]])
    # x.y: within a 0, within b 2; between 1, 3, 2, -2. The kernel is (x.y / 2 + 1)^3.
    within = 1 + 8
    between = (1.5**3 + 2.5**3 + 2**3 + 0) / 4
    assert squared_discrepancy(a, b) == pytest.approx(within - 2 * between, rel=1e-14)


def test_the_mean_of_equal_distributions_is_near_0(generator: np.random.Generator) -> None:
    a, b = generator.normal(size=(2, 500, 6))
    near = kernel_distance(a, b, num_subsets=50, subset_size=100)
    far = kernel_distance(a, b + 1, num_subsets=50, subset_size=100)
    assert abs(near.mean) < 0.05
    assert far.mean > 1
    assert near.standard_deviation > 0


def test_of_all_rows_every_subset_is_the_same(generator: np.random.Generator) -> None:
    a, b = generator.normal(size=(2, 30, 4))
    found = kernel_distance(a, b, num_subsets=3, subset_size=30)
    assert found.mean == pytest.approx(squared_discrepancy(a, b), rel=1e-12)
    assert found.standard_deviation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", [2020, 3])
def test_distances_are_those_of_torch_fidelity(generator: np.random.Generator, seed: int) -> None:
    a, b = generator.normal(size=(70, 12)), generator.normal(size=(55, 12)) * 1.2 + 0.1
    expected = kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=8, kid_subset_size=40,
        rng_seed=seed, verbose=False,
    )  # fmt: skip
    found = kernel_distance(a, b, num_subsets=8, subset_size=40, seed=seed)
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert found.standard_deviation == pytest.approx(
        expected["kernel_inception_distance_std"], rel=1e-9
    )


def test_the_defaults_are_torch_fidelity_s(generator: np.random.Generator) -> None:
    found = kernel_distance.__kwdefaults__
    assert found["num_subsets"] == DEFAULTS["kid_subsets"] == 100
    assert found["subset_size"] == DEFAULTS["kid_subset_size"] == 1000
    assert found["seed"] == DEFAULTS["rng_seed"] == 2020


def test_features_may_lie_on_a_disk(generator: np.random.Generator, tmp_path: Path) -> None:
    features = generator.normal(size=(2, 60, 5)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    stored = np.load(tmp_path / "features.npy", mmap_mode="r")
    sizes = {"num_subsets": 4, "subset_size": 20}
    assert kernel_distance(stored[0], stored[1], **sizes) == kernel_distance(*features, **sizes)


def test_what_has_no_distance_is_refused(generator: np.random.Generator) -> None:
    a = generator.normal(size=(10, 3))
    with pytest.raises(ValueError, match=r"features has shape \(10, 3\): .* at least 1000"):
        kernel_distance(a, a)
    with pytest.raises(ValueError, match="widths differ: 3 and 2"):
        kernel_distance(a, a[:, :2], subset_size=5)
    with pytest.raises(ValueError, match="subset_size = 1: must be at least 1 and 2"):
        kernel_distance(a, a, subset_size=1)
    assert np.isfinite(kernel_distance(a, a, num_subsets=1, subset_size=2).mean)
    with pytest.raises(ValueError, match="num_subsets = 0"):
        kernel_distance(a, a, num_subsets=0)
    a[3] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        kernel_distance(a, a, subset_size=10)
