r"""Build a teacher: centroids of a frozen network's features, and their fine cosine histogram.

    python -m jobs.build_teacher quickstart
    ray job submit --address http://127.0.0.1:8265 --working-dir . \
        --entrypoint-num-cpus 32 -- python -m jobs.build_teacher dinov2_4096

Machine: 8 GPUs for the features of 65,536 images, then the driver's 32 CPUs for k-means over
1,048,576 vectors (132 TFLOP); `quickstart` runs on 2 cores. Result: teacher.safetensors and
teacher.json, from which any bin count and alpha is re-binned. `--data-path FILE.npy` (or
.safetensors) takes finished centroids, such as a pretrained codebook, instead of shards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glotok_ray import artefact
from glotok_ray.config import TeacherRun
from glotok_ray.on_ray import teacher
from glotok_ray.recipes.teacher import RECIPES
from jobs.command_line import run_job


def describe(config: TeacherRun) -> dict[str, Any]:
    """What would run: vectors, clusters and, when the data are there, images."""
    source = Path(config.data_path)
    if source.suffix in teacher.CENTROID_SUFFIXES:
        return {
            "source": "centroids",
            "file_found": source.is_file(),
            "output_path": config.output_path,
        }
    dataset = source / "dataset.json"
    found = artefact.read_json(dataset)["num_images"] if dataset.is_file() else None
    images = (
        min(limit for limit in (config.max_images or None, found) if limit)
        if config.max_images or found
        else None
    )
    vectors = images * config.vectors_per_image if images else None
    return {
        "source": "features",
        "data_found": found is not None,
        "network": config.network,
        "weights_found": config.network == "efficientnet_lite0"
        or Path(config.weights_path).is_file(),
        "images": images,
        "vectors": vectors,
        "clusters": config.num_clusters,
        "vectors_per_cluster": vectors / config.num_clusters if vectors else None,
        "actors": config.pool.num_actors,
        "output_path": config.output_path,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="build_teacher",
        recipes=RECIPES,
        dry_run=describe,
        run=teacher.run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
