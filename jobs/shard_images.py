r"""Shard images: embedded photographs, a class-folder tree or ImageNet's archives in, Parquet shards out.

    python -m jobs.shard_images quickstart
    python -m jobs.shard_images imagenet_256 --source FOLDER --validation-source "" --output-path data/images
    python -m jobs.shard_images imagenet_256 --source ILSVRC2012_img_train.tar \
        --validation-source ILSVRC2012_img_val.tar --ground-truth-path ILSVRC2012_devkit_t12
    ray job submit --address http://127.0.0.1:8265 -- \
        python -m jobs.shard_images imagenet_256 --source /shared/train --validation-source /shared/val

Machine: CPUs only, one task per shard. Paths must be readable from every node. Without a validation_source a tenth of
the source's images becomes validation. A folder's originals are kept with --image-size 0, as `imagenet_256` does (110
KB an image, 147 GB); another side reduces them, and --resize-short-side 288 reduces large originals alone, to JPEG. An
image that cannot be read costs itself. Result: train/ and validation/ under output_path, each with Parquet shards,
dataset.json (with all that was left out) and a manifest; `quickstart` writes 4,100 and 600 crops of 48 pixels.
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.jobs import ShardRun
from glotok_ray.recipes.shard_images import RECIPES
from jobs.command_line import run_job


def describe(config: ShardRun) -> dict[str, Any]:
    """What would run."""
    from glotok_ray.stages import shard_images

    return shard_images.describe(config)


def run(config: ShardRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import shard_images

    return shard_images.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="shard_images",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
