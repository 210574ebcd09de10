"""K-means over feature vectors: its centroids are the teacher's codes (paper section 3.3).

Vectors are first centred, projected and normalised as the config says; each step changes cosines.
Read next: glotok_ray/teacher/histogram.py
"""

import logging
from typing import NamedTuple

import faiss
import numpy as np
import torch
from jaxtyping import Float, Int

from glotok_ray.config import TeacherRun

logger = logging.getLogger(__name__)

# Below this, faiss itself warns that centroids are badly determined.
FEWEST_POINTS_PER_CENTROID = 39


class Projection(NamedTuple):
    """The leading principal axes and the share of the (second) moment that they keep."""

    axes: Float[np.ndarray, "channels width"]
    kept_share: float


class Clusters(NamedTuple):
    """Centroids in the prepared space, and how they came about."""

    centroids: Float[np.ndarray, "clusters width"]
    sizes: Int[np.ndarray, " clusters"]
    """Vectors nearest to each centroid; none is 0."""
    objective: list[float]
    """After each iteration: summed squared distance, or summed cosine when spherical."""
    kept_share: float
    """Share of the variance that the projection keeps; 1 without one."""


def principal_axes(vectors: Float[np.ndarray, "vectors channels"], width: int) -> Projection:
    """Leading eigenvectors of the second-moment matrix, each with its largest entry positive.

    Of centred vectors this is PCA. Raises ValueError when `width` exceeds the channels.
    """
    channels = vectors.shape[1]
    if not 1 <= width <= channels:
        raise ValueError(
            f"project_width = {width}: features have {channels} channels; choose at most that, or "
            "0 to keep all"
        )
    moment = np.zeros((channels, channels))
    for start in range(0, len(vectors), 65536):
        block = vectors[start : start + 65536].astype(np.float64)
        moment += block.T @ block
    values, axes = torch.linalg.eigh(torch.from_numpy(moment))
    axes = axes.flip(1)[:, :width].numpy()
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(width)]
    total = float(values.sum())
    kept = float(values[-width:].sum()) / total if total > 0 else 1.0
    return Projection((axes * np.sign(largest)).astype(np.float32), kept)


def normalize_rows(
    vectors: Float[np.ndarray, "vectors width"],
) -> Float[np.ndarray, "vectors width"]:
    """Rows of unit length; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)


def fit_clusters(vectors: Float[np.ndarray, "vectors channels"], config: TeacherRun) -> Clusters:
    """Seeded k-means over all vectors; raises ValueError when they are too few or too alike."""
    check_count(len(vectors), config)
    kept_share = 1.0
    # A copy: the caller's vectors stay as they are.
    vectors = np.array(vectors, dtype=np.float32, order="C")
    if config.center:
        vectors -= vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    if config.project_width:
        axes, kept_share = principal_axes(vectors, config.project_width)
        vectors = vectors @ axes
    if config.spherical:
        vectors = normalize_rows(vectors)
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        config.num_clusters,
        niter=config.kmeans_iterations,
        seed=config.seed,
        spherical=config.spherical,
        # faiss otherwise drops vectors beyond 256 per centroid, and warns by itself below 39.
        max_points_per_centroid=len(vectors),
        min_points_per_centroid=1,
    )
    kmeans.train(vectors)
    assert kmeans.centroids is not None
    assert kmeans.obj is not None
    centroids, sizes = _fill_empty(vectors, kmeans.centroids.copy(), spherical=config.spherical)
    return Clusters(centroids, sizes, [float(value) for value in kmeans.obj], kept_share)


def check_count(count: int, config: TeacherRun) -> None:
    """Raise ValueError when `count` vectors cannot fill the clusters; warn when they are few."""
    if count < config.num_clusters:
        raise ValueError(
            f"num_clusters = {config.num_clusters}: only {count} feature vectors are drawn; lower "
            "num_clusters, or "
            f"raise max_images ({config.max_images}) or vectors_per_image "
            f"({config.vectors_per_image})"
        )
    if count < FEWEST_POINTS_PER_CENTROID * config.num_clusters:
        logger.warning(
            "%d vectors for %d clusters are %.1f per centroid; below %d centroids follow single "
            "vectors. "
            "Raise max_images or vectors_per_image, or lower num_clusters",
            count,
            config.num_clusters,
            count / config.num_clusters,
            FEWEST_POINTS_PER_CENTROID,
        )


def _fill_empty(
    vectors: np.ndarray, centroids: np.ndarray, *, spherical: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Move centroids that no vector is nearest to onto the worst-served vectors, until none is
    left.

    faiss splits empty clusters during its iterations, but not after the last one.
    """
    clusters = len(centroids)
    index = (faiss.IndexFlatIP if spherical else faiss.IndexFlatL2)(vectors.shape[1])
    previous = clusters
    while True:
        index.reset()
        index.add(centroids)
        scores, nearest = index.search(vectors, 1)
        sizes = np.bincount(nearest[:, 0], minlength=clusters)
        empty = np.flatnonzero(sizes == 0)
        if len(empty) == 0:
            return centroids, sizes
        if len(empty) >= previous:
            raise ValueError(
                f"num_clusters = {clusters}: {len(empty)} clusters stay empty, since the "
                f"{len(vectors)} feature vectors hold "
                f"too few different ones; lower num_clusters to at most {clusters - len(empty)}, "
                "or use more images"
            )
        previous = len(empty)
        distance = -scores[:, 0] if spherical else scores[:, 0]
        centroids[empty] = vectors[np.argsort(-distance, kind="stable")[: len(empty)]]
