"""The teacher build: features in an actor pool, k-means on the driver, a teacher folder on disk.

Paper section 3.3; the drawn images and vectors depend on the seed alone.
Read next: glotok_ray/teacher/clustering.py
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from glotok_ray import artefact
from glotok_ray.config import CodebookConfig, TeacherRun
from glotok_ray.data.records import DatasetInfo, ShardInfo
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.data.transforms import to_model_range
from glotok_ray.on_ray.actor_pool import (
    Output,
    actor_device,
    image_batches,
    map_shards,
    open_output,
    read_image_shards,
    read_shard,
)
from glotok_ray.teacher import features, histogram
from glotok_ray.teacher.clustering import Clusters, check_count, fit_clusters

logger = logging.getLogger(__name__)

CENTROID_SUFFIXES = (".npy", ".safetensors")


class DrawnRows(NamedTuple):
    """Rows of one shard, in ascending order."""

    shard: ShardInfo
    rows: list[int]


class FeatureActor:
    """Feature vectors of drawn rows of one shard."""

    def __init__(self, config: TeacherRun) -> None:
        self._config = config
        self._device = actor_device(config.pool)
        self._network = features.build_feature_network(config, self._device)

    def __call__(self, unit: DrawnRows) -> Float[np.ndarray, "vectors channels"]:
        """fp32 vectors, image by image."""
        config = self._config
        table = read_shard(Path(config.data_path), unit.shard).take(unit.rows)
        keys = iter(table["key"].to_pylist())
        drawn = []
        for images in image_batches(table, config.input_size, config.pool):
            with torch.inference_mode():
                maps = self._network.spatial(to_model_range(images, self._device)).float().cpu()
            for feature_map in maps:
                generator = seeded_generator("vectors", config.seed, next(keys))
                drawn.append(
                    features.draw_vectors(feature_map, config.vectors_per_image, generator)
                )
        return torch.cat(drawn).numpy()


def draw_images(dataset: DatasetInfo, *, seed: int, max_images: int) -> list[DrawnRows]:
    """At most `max_images` rows of all shards, each equally likely; 0 takes every row."""
    total = sum(shard.rows for shard in dataset.shards)
    chosen = np.arange(total)
    if 0 < max_images < total:
        chosen = np.sort(seeded_generator("images", seed).choice(total, max_images, replace=False))
    units, start = [], 0
    for shard in dataset.shards:
        inside = chosen[(chosen >= start) & (chosen < start + shard.rows)] - start
        if len(inside):
            units.append(DrawnRows(shard, inside.tolist()))
        start += shard.rows
    return units


def run(config: TeacherRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the teacher folder and return its manifest.

    `data_path` may also be a file of finished centroids (.npy, .safetensors).
    """
    source = Path(config.data_path)
    if source.suffix in CENTROID_SUFFIXES:
        teacher = histogram.from_centroids(source, fine_bins=config.fine_bins)
        output = open_output(
            "teacher", config, [], fresh=fresh, sha256=teacher.provenance["sha256"]
        )
        return output.finished or _save(output, teacher)
    dataset = read_image_shards(source)
    units = draw_images(dataset, seed=config.seed, max_images=config.max_images)
    check_count(sum(len(unit.rows) for unit in units) * config.vectors_per_image, config)
    weights = features.weights_digest(config)
    output = open_output("teacher", config, [config.data_path], fresh=fresh, weights_sha256=weights)
    if output.finished is not None:
        return output.finished
    clusters, facts = _cluster(units, config)
    provenance = {
        "source": "features",
        "network": config.network,
        "weights_sha256": weights,
        "data_manifest_sha256": artefact.sha256_of(source / artefact.MANIFEST),
        "input_size": config.input_size,
        "vectors_per_image": config.vectors_per_image,
        "seed": config.seed,
        **facts,
    }
    teacher = histogram.build_histogram(
        torch.tensor(clusters.centroids), fine_bins=config.fine_bins, provenance=provenance
    )
    return _save(output, teacher)


def _cluster(units: list[DrawnRows], config: TeacherRun) -> tuple[Clusters, dict[str, Any]]:
    """Gather the vectors and cluster them in this process, with all its cores."""
    sizes = [len(unit.rows) for unit in units]
    arguments = {"config": _with_absolute_paths(config)}
    parts = map_shards(units, FeatureActor, arguments, config.pool, stage="features", sizes=sizes)
    vectors = np.concatenate(list(parts))
    if len(vectors) < sum(sizes) * config.vectors_per_image:
        logger.warning(
            "vectors_per_image = %d: the network's map has fewer positions, all of them are kept "
            "(%d vectors); raise input_size for more",
            config.vectors_per_image,
            len(vectors),
        )
    logger.info(
        "k-means: %d vectors, %d clusters, %d iterations",
        len(vectors),
        config.num_clusters,
        config.kmeans_iterations,
    )
    clusters = fit_clusters(vectors, config)
    facts = {
        "num_images": sum(sizes),
        "num_vectors": len(vectors),
        "kmeans_iterations": config.kmeans_iterations,
        "objective": clusters.objective,
        "spherical": config.spherical,
        "center": config.center,
        "project_width": config.project_width,
        "projection_kept_share": clusters.kept_share,
        "smallest_cluster": int(clusters.sizes.min()),
        "median_cluster": float(np.median(clusters.sizes)),
        "largest_cluster": int(clusters.sizes.max()),
    }
    return clusters, facts


def _with_absolute_paths(config: TeacherRun) -> TeacherRun:
    # Actors run in working directories of their own.
    weights = str(Path(config.weights_path).absolute()) if config.weights_path else ""
    return dataclasses.replace(
        config, data_path=str(Path(config.data_path).absolute()), weights_path=weights
    )


def _save(output: Output, teacher: histogram.TeacherHistogram) -> dict[str, Any]:
    histogram.save_teacher(output.folder, teacher)
    student = CodebookConfig()
    teacher.reachable(width=student.width, size=student.size)
    mean, std = teacher.similarity()
    logger.info(
        "teacher: %d centroids of width %d, cosine %.3f +- %.3f, in %s",
        *teacher.centroids.shape,
        mean,
        std,
        output.folder,
    )
    return artefact.write_manifest(
        output.folder, "teacher", output.fingerprint, similarity_mean=mean, similarity_std=std
    )
