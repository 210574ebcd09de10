"""Distances to the nearest of a set: by hand, over blocks, and of copies."""

import numpy as np
import pytest

from glotok_ray.metrics import nearest
from glotok_ray.metrics.nearest import nearest_distances


def test_the_nearest_one_counts() -> None:
    references = np.array([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    queries = np.array([[0.0, 1.0], [3.0, 4.0], [6.0, 8.0], [100.0, 0.0]])
    np.testing.assert_allclose(nearest_distances([queries], [references]), [1, 0, 5, 90])


def test_blocks_give_what_the_whole_matrix_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    queries, references = generator.normal(size=(23, 5)), generator.normal(size=(31, 5))
    monkeypatch.setattr(nearest, "_QUERIES_PER_BLOCK", 4)
    monkeypatch.setattr(nearest, "_REFERENCES_PER_BLOCK", 7)
    monkeypatch.setattr(nearest, "_QUERIES_PER_PASS", 10)
    whole = np.linalg.norm(queries[:, None] - references, axis=2).min(axis=1)
    np.testing.assert_allclose(
        nearest_distances(np.split(queries, [3, 5]), np.split(references, [20])), whole, rtol=1e-12
    )


def test_a_copy_has_no_distance_however_far_all_lie_from_the_origin() -> None:
    references = (np.random.default_rng(0).normal(size=(50, 8)) + 1e4).astype(np.float32)
    assert (nearest_distances([references[10:20]], [references]) == 0).all()


def test_what_has_no_distance_is_refused() -> None:
    points = np.zeros((2, 3))
    with pytest.raises(ValueError, match="references: there are none"):
        nearest_distances([points], [points[:0]])
    with pytest.raises(ValueError, match=r"references have blocks of shape \(2,\)"):
        nearest_distances([points], [points[:, 0]])
    with pytest.raises(ValueError, match="widths differ: 3 and 2"):
        nearest_distances([points], [points[:, :2]])
    with pytest.raises(ValueError, match="queries hold values that are not finite"):
        nearest_distances([points + np.inf], [points])
