r"""Build a teacher: centroids of a frozen network's features, and their fine cosine histogram.

    python -m jobs.build_teacher quickstart
    ray job submit --address http://127.0.0.1:8265 \
        --entrypoint-num-cpus 32 -- python -m jobs.build_teacher dinov2_4096

Machine: 8 GPUs for the features of 65,536 images, then the driver's 32 CPUs for k-means over 1,048,576 vectors
(132 TFLOP); `quickstart` and `embedded_1024` run on 2 cores. Result: teacher.safetensors, teacher.json, from which any
bin count and alpha is re-binned, and teacher.png. `--data-path FILE` (.npy, .pt, .pth, .safetensors) takes finished
centroids, such as a pretrained codebook, instead of shards. Killed at any time, the same command goes on.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from glotok_ray.config.jobs import TeacherRun
from glotok_ray.recipes.build_teacher import RECIPES
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job

# Shards of a data set that is not here yet, for the estimate of memory.
_USUAL_PARTS = 1000


def describe(config: TeacherRun) -> dict[str, Any]:
    """What would run: vectors, clusters, memory and, when the data are there, images."""
    from glotok_ray.data.recorded import read_image_dataset
    from glotok_ray.data.records import DATASET
    from glotok_ray.teacher import centroids, features, memory, networks

    source = to_path(config.data_path)
    if source.suffix in centroids.SUFFIXES:
        return {
            "source": "centroids",
            "file_found": source.is_file(),
            "output_path": config.output_path,
        }
    weights = config.network.weights_path
    network = dataclasses.replace(config.network, weights_path="", weights_sha256="")
    networks.check_network(network)
    dataset = read_image_dataset(source) if (source / DATASET).is_file() else None
    limits = [config.max_images, dataset.num_images if dataset else 0]
    images = min((limit for limit in limits if limit), default=None)
    channels = features.channels(network)
    per_image = min(config.vectors_per_image, features.grid_side(network) ** 2)
    vectors = images * per_image if images else None
    parts = len(dataset.shards) if dataset else _USUAL_PARTS
    width, kmeans = config.project_width or channels, config.kmeans
    clusters: int | None = kmeans.num_clusters
    if kmeans.clusters_per_class:
        clusters = kmeans.clusters_per_class * len(dataset.classes) if dataset else None
    return {
        "source": "features",
        "data_found": dataset is not None,
        "network": network.name,
        "weights_found": to_path(weights).is_file() if weights else None,
        "images": images,
        "vectors": vectors,
        "channels": channels,
        "features_gib": vectors * channels * 4 / 2**30 if vectors else None,
        "k_means": memory.where_clustered(vectors, width, kmeans) if vectors else None,
        "driver_memory_gib": memory.peak_memory_gib(
            vectors, channels, parts, kmeans, project_width=config.project_width
        )
        if vectors
        else None,
        "clusters": clusters,
        "vectors_per_cluster": vectors / clusters if vectors and clusters else None,
        "actors": config.pool.num_actors,
        "output_path": config.output_path,
    }


def run(config: TeacherRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import build_teacher

    return build_teacher.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="build_teacher",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
