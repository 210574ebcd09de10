"""K-means over feature vectors: its centroids are the teacher's codes (paper section 3.3).

One Lloyd loop, which asks for sums over all vectors and does not know where they lie. Its state is kept on disk, so
that a run goes on after a kill. Read next: glotok_ray/teacher/partial_sums.py
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from glotok_ray.config.teacher import KMeansConfig
from glotok_ray.progress import ProgressLine
from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.teacher.partial_sums import PartialSums, Vectors
from glotok_ray.teacher.preparation import normalize_rows

logger = logging.getLogger(__name__)

# Below this, faiss itself warns that centroids are badly determined.
FEWEST_POINTS_PER_CENTROID = 39
# k-means++ walks a sample, one pass per centroid: this many vectors for each.
_SAMPLE_PER_CENTROID = 32
# Of distances in fp32, as a share of the vectors' squared norm; products of a thousand numbers stay well below it.
_ROUNDING = 1e-5


class Clusters(NamedTuple):
    """Centroids in the prepared space, and how they came about."""

    centroids: Float[np.ndarray, "clusters width"]
    sizes: Int[np.ndarray, " clusters"]
    """Vectors nearest to each centroid; none is 0."""
    objective: list[float]
    """Before each update and at the end: summed squared distance, or summed cosine when spherical."""


class State(NamedTuple):
    """A Lloyd run between two iterations; enough to go on with."""

    restart: int = 0
    objective: tuple[float, ...] = ()
    centroids: Float[np.ndarray, "clusters width"] | None = None
    best: Clusters | None = None


def fit(
    vectors: Vectors,
    num_clusters: int,
    config: KMeansConfig,
    *,
    seed: int,
    state: State | None = None,
    save: Callable[[State], None] = lambda state: None,
    stage: str = "k-means",
    setting: str = "kmeans.num_clusters",
) -> Clusters:
    """The best of `config.restarts` runs of Lloyd iterations, whose initial centroids follow from `seed`.

    `save` gets the state after every iteration; from any such `state` the run goes on to the same centroids. Raises
    ValueError, which names the `setting`, when the vectors are too alike.
    """
    state = state or State()
    progress = ProgressLine(stage, config.restarts * config.iterations, "iterations")
    while state.restart < config.restarts:
        if state.centroids is None:
            seeds = _seeds(vectors, num_clusters, config, [seed, state.restart])
            state = state._replace(centroids=seeds)
        state = _lloyd(vectors, config, state, save, progress, setting)
        save(state)
    progress.end()
    assert state.best is not None
    return state.best


def _lloyd(
    vectors: Vectors,
    config: KMeansConfig,
    state: State,
    save: Callable[[State], None],
    progress: ProgressLine,
    setting: str,
) -> State:
    """One run to its end; the state before the next restart."""
    centroids = state.centroids
    assert centroids is not None
    for iteration in range(len(state.objective), config.iterations):
        found = vectors.partial_sums(centroids)
        moved = _update(centroids, found, spherical=config.spherical)
        done, centroids = np.array_equal(moved, centroids), moved
        state = state._replace(centroids=moved, objective=(*state.objective, found.objective))
        progress.update(
            state.restart * config.iterations + iteration + 1,
            f"objective {found.objective:.6g}",
        )
        if done:
            break
        save(state)
    centroids, last = _without_empty(
        vectors, centroids, spherical=config.spherical, setting=setting
    )
    clusters = Clusters(centroids, last.counts, [*state.objective, last.objective])
    logger.info(
        "k-means, run %d of %d: objective %.6g after %d iterations",
        state.restart + 1,
        config.restarts,
        last.objective,
        len(state.objective),
    )
    best = _better(state.best, clusters, spherical=config.spherical)
    return State(restart=state.restart + 1, best=best)


def _better(best: Clusters | None, other: Clusters, *, spherical: bool) -> Clusters:
    if best is None:
        return other
    gained = other.objective[-1] - best.objective[-1]
    return other if (gained > 0 if spherical else gained < 0) else best


def _seeds(
    vectors: Vectors, num_clusters: int, config: KMeansConfig, seed: list[int]
) -> np.ndarray:
    """Initial centroids: drawn vectors, or k-means++ over a drawn sample."""
    generator = np.random.default_rng(seed)
    wanted = num_clusters
    if config.seeding == "kmeans++":
        wanted = min(vectors.count, _SAMPLE_PER_CENTROID * num_clusters)
    drawn = vectors.rows(np.sort(generator.choice(vectors.count, wanted, replace=False)))
    if config.seeding == "random":
        return drawn
    import faiss

    # faiss's stubs lack its newer classes.
    library: Any = faiss
    seeding = library.ClusteringInitialization(drawn.shape[1], num_clusters)
    seeding.method = library.ClusteringInitMethod_KMEANS_PLUS_PLUS
    seeding.seed = int(generator.integers(1 << 31))
    seeds = np.empty((num_clusters, drawn.shape[1]), np.float32)
    seeding.init_centroids(len(drawn), library.swig_ptr(drawn), library.swig_ptr(seeds))
    return seeds


def _update(centroids: np.ndarray, found: PartialSums, *, spherical: bool) -> np.ndarray:
    """Means of the clusters; empty ones move to the worst-served vectors."""
    moved = centroids.copy()
    filled = found.counts > 0
    moved[filled] = found.sums[filled] / found.counts[filled, None]
    empty = np.flatnonzero(~filled)[: len(found.worst)]
    moved[empty] = found.worst[: len(empty)]
    return normalize_rows(moved) if spherical else moved


def _without_empty(
    vectors: Vectors, centroids: np.ndarray, *, spherical: bool, setting: str
) -> tuple[np.ndarray, PartialSums]:
    """Move centroids that no vector is nearest to onto the worst-served vectors, until none is left."""
    previous: PartialSums | None = None
    while True:
        found = vectors.partial_sums(centroids)
        empty = np.flatnonzero(found.counts == 0)
        if len(empty) == 0:
            return centroids, found
        # Each move serves its vector better, unless all vectors lie on centroids already.
        if previous is not None:
            gain = found.objective - previous.objective
            gain = gain if spherical else -gain
            # Of many millions of vectors a move gains a small share, too.
            is_small = gain <= 1e-7 * abs(previous.objective)
            if is_small and (gain <= 0 or _serves_all(found, spherical=spherical)):
                raise ValueError(
                    f"{setting} = {len(centroids)}: {len(empty)} clusters stay empty, since the "
                    f"{vectors.count} feature vectors hold too few different ones; lower it to at most "
                    f"{len(centroids) - len(empty)}, or use more images"
                )
        previous = found
        centroids = centroids.copy()
        empty = empty[: len(found.worst)]
        centroids[empty] = found.worst[: len(empty)]


def _serves_all(found: PartialSums, *, spherical: bool) -> bool:
    """Whether even the worst-served vector lies on its centroid, as far as fp32 can tell."""
    scale = 1.0 if spherical else float(np.square(found.worst[0].astype(np.float64)).sum())
    return float(found.badness[0]) <= _ROUNDING * scale


def check_count(count: int, config: KMeansConfig) -> None:
    """Raise ValueError when `count` vectors cannot fill the clusters; warn when they are few."""
    if config.clusters_per_class:
        return
    if count < config.num_clusters:
        raise ValueError(
            f"kmeans.num_clusters = {config.num_clusters}: only {count} feature vectors are drawn; lower it, or raise "
            "max_images or vectors_per_image"
        )
    if count < FEWEST_POINTS_PER_CENTROID * config.num_clusters:
        logger.warning(
            "%d vectors for %d clusters are %.1f per centroid; below %d centroids follow single "
            "vectors. Raise max_images or vectors_per_image, or lower kmeans.num_clusters",
            count,
            config.num_clusters,
            count / config.num_clusters,
            FEWEST_POINTS_PER_CENTROID,
        )


# ------------------------------------------------------------------------------------------ state on disk


def save_state(path: Path, state: State) -> None:
    """Write a state so that a reader sees the old one or the new one."""
    arrays: dict[str, Any] = {"restart": state.restart, "objective": state.objective}
    if state.centroids is not None:
        arrays["centroids"] = state.centroids
    if state.best is not None:
        arrays |= {f"best_{name}": value for name, value in state.best._asdict().items()}
    with artefact.replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load_state(path: Path) -> State | None:
    """The state that `save_state` wrote, or None when there is none."""
    if not path.is_file():
        return None
    with np.load(at_hand(path), allow_pickle=False) as stored:
        best = None
        if "best_centroids" in stored:
            objective = stored["best_objective"].tolist()
            best = Clusters(stored["best_centroids"], stored["best_sizes"], objective)
        return State(
            int(stored["restart"]),
            tuple(stored["objective"].tolist()),
            stored.get("centroids"),
            best,
        )
