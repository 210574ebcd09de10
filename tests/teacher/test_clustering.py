"""K-means: what it finds, what it prepares first, and when it refuses."""

import dataclasses
import logging

import faiss
import numpy as np
import pytest

from glotok_ray.config import TeacherRun
from glotok_ray.teacher import clustering

CONFIG = TeacherRun(num_clusters=4, kmeans_iterations=10, center=False)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    faiss.omp_set_num_threads(1)


def blobs(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Vectors close to the four corners (+-5, +-5, 1), in turn, and the corners."""
    corners = np.array([[x, y, 1.0] for x in (-5, 5) for y in (-5, 5)], dtype=np.float32)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(count, 3))
    return (corners[np.arange(count) % 4] + noise).astype(np.float32), corners


def by_corner(values: np.ndarray) -> np.ndarray:
    return values[np.argsort((values[:, 0] > 0) * 2 + (values[:, 1] > 0))]


def test_centroids_are_the_means_of_separate_blobs() -> None:
    vectors, _ = blobs()
    clusters = clustering.fit_clusters(vectors, CONFIG)
    means = np.stack([vectors[start::4].mean(axis=0) for start in range(4)])
    np.testing.assert_allclose(by_corner(clusters.centroids), by_corner(means), atol=1e-4)
    assert clusters.sizes.tolist() == [50] * 4
    # faiss stops early when nothing moves any more.
    assert 1 < len(clusters.objective) <= 10
    assert clusters.objective == sorted(clusters.objective, reverse=True)


def test_every_vector_counts_however_many_there_are() -> None:
    # faiss's own default would keep 4 * 256 of these 4000 and so miss the exact means.
    vectors, _ = blobs(4000)
    clusters = clustering.fit_clusters(vectors, CONFIG)
    assert clusters.sizes.sum() == 4000
    np.testing.assert_allclose(clusters.centroids.mean(axis=0), vectors.mean(axis=0), atol=1e-4)


def test_equal_seeds_give_equal_centroids() -> None:
    vectors = np.random.default_rng(1).normal(size=(400, 6)).astype(np.float32)
    first, again = (clustering.fit_clusters(vectors, CONFIG) for _ in range(2))
    other = clustering.fit_clusters(vectors, dataclasses.replace(CONFIG, seed=1))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    assert not np.array_equal(first.centroids, other.centroids)


def test_centring_moves_the_centroids_and_leaves_the_input_alone() -> None:
    vectors, _ = blobs()
    before = vectors.copy()
    vectors.setflags(write=False)
    clusters = clustering.fit_clusters(vectors, dataclasses.replace(CONFIG, center=True))
    np.testing.assert_array_equal(vectors, before)
    np.testing.assert_allclose(clusters.centroids.mean(axis=0), 0, atol=1e-5)


def test_spherical_centroids_are_unit_vectors() -> None:
    vectors, corners = blobs()
    clusters = clustering.fit_clusters(
        vectors * np.linspace(1, 9, 200, dtype=np.float32)[:, None],
        dataclasses.replace(CONFIG, spherical=True),
    )
    np.testing.assert_allclose(np.linalg.norm(clusters.centroids, axis=1), 1, atol=1e-6)
    unit = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    np.testing.assert_allclose((clusters.centroids @ unit.T).max(axis=1), 1, atol=1e-3)
    assert clusters.sizes.tolist() == [50] * 4


def test_principal_axes_are_those_of_a_known_covariance() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    # Second moment exactly rotation @ diag(9, 4, 1) @ rotation.T.
    vectors = (np.diag([3.0, 2.0, 1.0]) @ rotation.T).astype(np.float32)
    axes, kept = clustering.principal_axes(vectors, 2)
    assert kept == pytest.approx(13 / 14, rel=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(axes * rotation[:, :2], axis=0)), 1, rtol=1e-5)
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(2)] > 0).all()


def test_projection_narrows_the_centroids() -> None:
    vectors, _ = blobs()
    clusters = clustering.fit_clusters(
        vectors, dataclasses.replace(CONFIG, center=True, project_width=2)
    )
    assert clusters.centroids.shape == (4, 2)
    assert clusters.kept_share > 0.99
    np.testing.assert_allclose(np.linalg.norm(clusters.centroids, axis=1), np.sqrt(50), rtol=0.02)
    with pytest.raises(ValueError, match="project_width = 9: features have 3 channels"):
        clustering.fit_clusters(vectors, dataclasses.replace(CONFIG, project_width=9))


def test_too_few_vectors_are_refused_with_the_counts() -> None:
    with pytest.raises(ValueError, match=r"num_clusters = 4: only 3 feature vectors.*max_images"):
        clustering.fit_clusters(blobs()[0][:3], CONFIG)


def test_too_few_different_vectors_are_refused() -> None:
    vectors = np.repeat(blobs()[1][:3], 60, axis=0)
    with pytest.raises(ValueError, match="num_clusters = 4: 1 clusters stay empty"):
        clustering.fit_clusters(vectors, CONFIG)


def test_few_vectors_per_centroid_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        clustering.fit_clusters(blobs(4 * 39)[0], CONFIG)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        clustering.fit_clusters(blobs(4 * 39 - 1)[0], CONFIG)
    assert "38.8 per centroid" in caplog.text


@pytest.mark.parametrize("spherical", [False, True])
def test_an_empty_cluster_moves_to_the_worst_served_vector(spherical: bool) -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2]]
    # The last centroid is nearest to nothing; the third axis is the worst served.
    centroids = np.array([[1, 0, 0], [0, 1, 0.1], [-1, -1, -1]], dtype=np.float32)
    filled, sizes = clustering._fill_empty(vectors, centroids, spherical=spherical)
    np.testing.assert_array_equal(filled[2], [0, 0, 1])
    assert sizes.tolist() == [3, 1, 1]
