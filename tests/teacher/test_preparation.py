"""Preparation of feature vectors: centring, projection, normalisation, from additive sums."""

import numpy as np
import pytest

from glotok_ray.teacher import preparation


def cloud(count: int = 300) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(count, 3)) * [5, 2, 0.1] + [1, 2, 3]).astype(np.float32)


def prepared(
    vectors: np.ndarray, *, center: bool = False, project_width: int = 0, spherical: bool = False
) -> np.ndarray:
    found = preparation.moments(vectors, second=bool(project_width))
    prepare = preparation.preparation(
        found, center=center, project_width=project_width, spherical=spherical
    )
    return prepare(vectors)


def test_preparation_leaves_its_input_alone() -> None:
    vectors = cloud()
    before = vectors.copy()
    vectors.setflags(write=False)
    centred = prepared(vectors, center=True)
    np.testing.assert_array_equal(vectors, before)
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_array_equal(prepared(vectors), before)


def test_spherical_vectors_have_unit_length_and_zero_stays_zero() -> None:
    vectors = np.concatenate([cloud(), np.zeros((1, 3), np.float32)])
    unit = prepared(vectors, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(unit[:-1], axis=1), 1, atol=1e-6)
    assert not unit[-1].any()


def test_moments_of_parts_add_up_to_those_of_all() -> None:
    vectors = cloud(1000)
    found = preparation.add_up(
        preparation.moments(vectors[a : a + 300], second=True) for a in range(0, 1000, 300)
    )
    assert found.count == 1000
    np.testing.assert_allclose(found.total, vectors.sum(axis=0, dtype=float), rtol=1e-10)
    np.testing.assert_allclose(found.second, vectors.T.astype(float) @ vectors, rtol=1e-5)


def test_principal_axes_are_those_of_a_known_covariance() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    # Second moment exactly rotation @ diag(9, 4, 1) @ rotation.T.
    vectors = (np.diag([3.0, 2.0, 1.0]) @ rotation.T).astype(np.float32)
    axes, kept = preparation.principal_axes(vectors, 2)
    assert kept == pytest.approx(13 / 14, rel=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(axes * rotation[:, :2], axis=0)), 1, rtol=1e-5)
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(2)] > 0).all()


def test_projection_is_that_of_the_centred_vectors() -> None:
    vectors = cloud()
    flat = prepared(vectors, center=True, project_width=2)
    assert flat.shape == (300, 2)
    centred = vectors - vectors.mean(axis=0)
    axes, kept = preparation.principal_axes(centred, 2)
    assert kept > 0.99
    np.testing.assert_allclose(np.abs(flat), np.abs(centred @ axes), atol=1e-3)
    with pytest.raises(ValueError, match="project_width = 9: features have 3 channels"):
        prepared(vectors, project_width=9)


def test_sums_over_features_that_are_not_finite_are_refused() -> None:
    vectors = np.ones((5, 3), np.float32)
    vectors[2, 1] = np.inf
    with pytest.raises(ValueError, match="of 5 feature vectors some hold NaN"):
        preparation.moments(vectors, second=True)
