"""K-means: what it finds, what it prepares first, how it resumes, and when it refuses."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from glotok_ray.config import KMeansConfig
from glotok_ray.teacher import clustering
from glotok_ray.teacher.clustering import Clusters, State
from glotok_ray.teacher.partial_sums import (
    InMemory,
    PartialSums,
    nearest_by_product,
    partial_sums,
)
from glotok_ray.teacher.preparation import add_up, normalize_rows

CONFIG = KMeansConfig(num_clusters=4, iterations=10)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    faiss.omp_set_num_threads(1)


def blobs(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Vectors close to the four corners (+-5, +-5, 1), in turn, and the corners."""
    corners = np.array([[x, y, 1.0] for x in (-5, 5) for y in (-5, 5)], dtype=np.float32)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(count, 3))
    return (corners[np.arange(count) % 4] + noise).astype(np.float32), corners


def cloud(count: int = 3000, width: int = 12) -> np.ndarray:
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(40, width))
    noise = 0.4 * generator.normal(size=(count, width))
    return (centres[generator.integers(0, 40, count)] + noise).astype(np.float32)


def fit(vectors: np.ndarray, *, seed: int = 0, **changes: Any) -> Clusters:
    config = dataclasses.replace(CONFIG, **changes)
    return clustering.fit(
        InMemory(vectors, spherical=config.spherical), config.num_clusters, config, seed=seed
    )


def by_corner(values: np.ndarray) -> np.ndarray:
    return values[np.argsort((values[:, 0] > 0) * 2 + (values[:, 1] > 0))]


@pytest.mark.parametrize("seeding", ["random", "kmeans++"])
def test_centroids_are_the_means_of_separate_blobs(seeding: str) -> None:
    vectors, _ = blobs()
    # Random seeds may fall into one blob and stay there; among six runs one does not.
    clusters = fit(vectors, seeding=seeding, restarts=6)
    means = np.stack([vectors[start::4].mean(axis=0) for start in range(4)])
    np.testing.assert_allclose(by_corner(clusters.centroids), by_corner(means), atol=1e-4)
    assert clusters.sizes.tolist() == [50] * 4
    assert clusters.objective == sorted(clusters.objective, reverse=True)
    assert clusters.objective[-1] == pytest.approx(
        float(((vectors - means[np.arange(200) % 4]) ** 2).sum()), rel=1e-4
    )


def test_it_stops_when_nothing_moves_any_more() -> None:
    clusters = fit(blobs()[0], seeding="kmeans++", iterations=50)
    assert len(clusters.objective) < 10


@pytest.mark.parametrize("spherical", [False, True])
def test_the_objective_is_that_of_faiss_from_the_same_seeds(spherical: bool) -> None:
    vectors = cloud()
    if spherical:
        vectors = normalize_rows(vectors)
    seeds = vectors[::100].copy()
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        len(seeds),
        niter=12,
        spherical=spherical,
        max_points_per_centroid=len(vectors),
        min_points_per_centroid=1,
    )
    kmeans.train(vectors, init_centroids=seeds)
    config = dataclasses.replace(CONFIG, iterations=12, spherical=spherical)
    ours = clustering.fit(
        InMemory(vectors, spherical=spherical),
        len(seeds),
        config,
        seed=0,
        state=State(centroids=seeds),
    )
    assert kmeans.obj is not None
    # faiss tells the objective before each update, as our curve does but for its last entry.
    np.testing.assert_allclose(ours.objective[: len(kmeans.obj)], kmeans.obj[:12], rtol=1e-3)
    np.testing.assert_allclose(ours.centroids, kmeans.centroids, atol=0.05)


def test_equal_seeds_give_equal_centroids() -> None:
    vectors = cloud(400, 6)
    first, again, other = fit(vectors), fit(vectors), fit(vectors, seed=1)
    np.testing.assert_array_equal(first.centroids, again.centroids)
    assert not np.array_equal(first.centroids, other.centroids)


def test_far_seeds_serve_separate_blobs_better_than_random_ones() -> None:
    generator = np.random.default_rng(3)
    centres = 20 * generator.normal(size=(30, 5))
    vectors = (centres[np.arange(900) % 30] + generator.normal(size=(900, 5))).astype(np.float32)
    options = {"num_clusters": 30, "iterations": 8}
    far = [fit(vectors, seeding="kmeans++", seed=s, **options) for s in range(5)]
    drawn = [fit(vectors, seed=s, **options) for s in range(5)]
    ends = [np.mean([run.objective[-1] for run in runs]) for runs in (far, drawn)]
    assert ends[0] < 0.7 * ends[1]


def test_the_best_restart_is_kept() -> None:
    vectors = cloud(600, 6)
    options = {"num_clusters": 20, "iterations": 4}
    # A restart's seeds depend on its number alone, so more restarts only add to the choice.
    ends = [fit(vectors, restarts=n, **options).objective[-1] for n in (1, 2, 5)]
    assert ends[0] >= ends[1] >= ends[2]
    assert ends[2] < ends[0]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 4, 9])
def test_killed_after_any_iteration_it_resumes_to_the_same_centroids(
    after: int, tmp_path: Path
) -> None:
    vectors = InMemory(cloud(600, 6), spherical=False)
    config = dataclasses.replace(CONFIG, iterations=4, restarts=3)
    expected = clustering.fit(vectors, 20, config, seed=0)
    saves = 0

    def save(state: State) -> None:
        nonlocal saves
        clustering.save_state(tmp_path / "state.npz", state)
        saves += 1
        if saves == after:
            raise KilledError

    with pytest.raises(KilledError):
        clustering.fit(vectors, 20, config, seed=0, save=save)
    state = clustering.load_state(tmp_path / "state.npz")
    assert state is not None
    resumed = clustering.fit(vectors, 20, config, seed=0, state=state)
    np.testing.assert_array_equal(resumed.centroids, expected.centroids)
    assert resumed.objective == expected.objective


def test_parts_add_up_to_the_whole() -> None:
    vectors = cloud(1000)
    centroids = vectors[:30].copy()
    whole = partial_sums(vectors, centroids, spherical=False)
    pieces = add_up(
        partial_sums(vectors[a : a + 300], centroids, spherical=False) for a in range(0, 1000, 300)
    )
    np.testing.assert_allclose(pieces.sums, whole.sums, rtol=1e-12)
    np.testing.assert_array_equal(pieces.counts, whole.counts)
    assert pieces.objective == pytest.approx(whole.objective, rel=1e-12)
    np.testing.assert_array_equal(pieces.badness, whole.badness)
    np.testing.assert_array_equal(pieces.worst, whole.worst)


@pytest.mark.parametrize("spherical", [False, True])
def test_matrix_products_find_what_faiss_finds(spherical: bool) -> None:
    vectors, centroids = cloud(500), cloud(40)[:, ::-1].copy()
    if spherical:
        vectors, centroids = map(normalize_rows, (vectors, centroids))
    expected = partial_sums(vectors, centroids, spherical=spherical)
    nearest, badness = nearest_by_product(
        vectors, centroids, spherical=spherical, device=torch.device("cpu")
    )
    np.testing.assert_array_equal(np.bincount(nearest, minlength=40), expected.counts)
    np.testing.assert_allclose(np.sort(badness)[::-1][:256], expected.badness, atol=1e-4)


def test_spherical_centroids_are_unit_vectors() -> None:
    vectors, corners = blobs()
    unit = normalize_rows(vectors)
    clusters = fit(unit, spherical=True, seeding="kmeans++")
    np.testing.assert_allclose(np.linalg.norm(clusters.centroids, axis=1), 1, atol=1e-6)
    unit_corners = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    np.testing.assert_allclose((clusters.centroids @ unit_corners.T).max(axis=1), 1, atol=1e-3)
    assert clusters.sizes.tolist() == [50] * 4
    assert clusters.objective == sorted(clusters.objective)


def test_too_few_vectors_are_refused_with_the_counts() -> None:
    with pytest.raises(
        ValueError, match=r"kmeans\.num_clusters = 4: only 3 feature vectors.*max_images"
    ):
        clustering.check_count(3, CONFIG)


def test_too_few_different_vectors_are_refused() -> None:
    vectors = np.repeat(blobs()[1][:3], 60, axis=0)
    with pytest.raises(ValueError, match=r"kmeans\.num_clusters = 4: 1 clusters stay empty"):
        fit(vectors)


def test_few_vectors_per_centroid_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        clustering.check_count(4 * 39, CONFIG)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        clustering.check_count(4 * 39 - 1, CONFIG)
    assert "38.8 per centroid" in caplog.text


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("spherical", [False, True])
def test_an_empty_cluster_moves_to_the_worst_served_vector(
    spherical: bool, iterations: int
) -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2]]
    # The last centroid is nearest to nothing; the third axis is the worst served.
    seeds = np.array([[1, 0, 0], [0, 1, 0.1], [-1, -1, -1]], dtype=np.float32)
    config = dataclasses.replace(CONFIG, iterations=iterations, spherical=spherical)
    clusters = clustering.fit(
        InMemory(vectors, spherical=spherical), 3, config, seed=0, state=State(centroids=seeds)
    )
    np.testing.assert_array_equal(clusters.centroids[2], [0, 0, 1])
    assert clusters.sizes.tolist() == [3, 1, 1]


def test_an_emptied_cluster_is_filled_again_though_another_empties() -> None:
    # The outlier, alone in its cluster, is the worst served: moving there empties that cluster.
    vectors = np.array([[0], [0.1], [14], [-0.1]], dtype=np.float32)
    seeds = np.array([[0], [10], [1000]], dtype=np.float32)
    found, sums = clustering._without_empty(
        InMemory(vectors, spherical=False), seeds, spherical=False, setting="num_clusters"
    )
    assert (sums.counts > 0).all()
    assert 14 in found


class ManyCopies(InMemory):
    """Vectors of which the first stands for so many copies that one move gains next to nothing of the objective; a pass
    remembers one of the worst served.
    """

    COPIES = 4e7

    def partial_sums(self, centroids: np.ndarray) -> PartialSums:
        found = super().partial_sums(centroids)
        first = partial_sums(self._vectors[:1], centroids, spherical=self._spherical)
        more = self.COPIES - 1
        return PartialSums(
            found.sums + more * first.sums,
            found.counts + (more * first.counts).astype(np.int64),
            found.objective + more * first.objective,
            found.worst[:1],
            found.badness[:1],
        )


@pytest.mark.parametrize("spherical", [False, True])
def test_empty_clusters_are_filled_among_millions_of_vectors(spherical: bool) -> None:
    axes = np.eye(12, dtype=np.float32)
    # The first axis has a centroid near it, at a side; no axis is nearest to those behind it.
    seeds = np.stack([axes[0] + 1.2 * axes[1], *(-9 * axes[0] - axes[2:9])])
    if spherical:
        seeds = normalize_rows(seeds)
    found, sums = clustering._without_empty(
        ManyCopies(axes, spherical=spherical), seeds, spherical=spherical, setting="num_clusters"
    )
    assert (sums.counts > 0).all()
    # One axis after another got one.
    assert (found[1:] == 1).sum(axis=1).tolist() == [1] * 7


@pytest.mark.parametrize("spherical", [False, True])
def test_too_few_different_ones_among_millions_are_refused(spherical: bool) -> None:
    vectors = normalize_rows(cloud(3, 384))
    seeds = vectors[[0, 1, 2, 0, 1]]
    with pytest.raises(ValueError, match=r"num_clusters = 5: 2 clusters stay empty"):
        clustering._without_empty(
            ManyCopies(np.repeat(vectors, 500, axis=0), spherical=spherical),
            seeds,
            spherical=spherical,
            setting="num_clusters",
        )


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named_and_join_no_cluster(
    spherical: bool, value: float
) -> None:
    vectors = cloud(400, 6)
    vectors[123, 4] = value
    with pytest.raises(ValueError, match=r"1 of 400 feature vectors hold NaN or infinite"):
        fit(vectors, spherical=spherical)
    # What a GPU computes has an index for everything.
    nearest, badness = nearest_by_product(
        vectors, vectors[:5].copy(), spherical=spherical, device=torch.device("cpu")
    )
    assert not np.isfinite(badness[123])
    assert np.isfinite(np.delete(badness, 123)).all()
    assert len(nearest) == 400
