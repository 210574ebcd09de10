r"""Sample a generator: class-conditional images as an ADM-style samples.npz.

    python -m jobs.sample_images quickstart
    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.sample_images xar_b

Machine: 8 GPUs for 50,000 images, in bf16 products; `quickstart` runs on 2 cores. Result: samples.npz (arr_0, uint8,
NHWC), samples.parquet with dataset.json (the same images as PNG in a shard: key, image, label, seed, image_id) and
grid.png, equal for any number of actors. A job that was killed goes on when it is started again.
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.jobs import AnySampleRun
from glotok_ray.recipes.sample_images import RECIPES
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job


def describe(config: AnySampleRun) -> dict[str, Any]:
    """What would run: images, blocks and, when the generator is there, network evaluations per
    image.
    """
    from glotok_ray.pretrained.generator import GENERATOR_FILE, TOKENIZER_FOLDER, model_config
    from glotok_ray.pretrained.tokenizer import CONFIG_FILE
    from glotok_ray.sampling.images import network_evaluations
    from glotok_ray.stages import sample_images
    from glotok_ray.storage import artefact

    generator = to_path(config.generator_path)
    model = model_config(generator) if (generator / GENERATOR_FILE).is_file() else None
    if (generator / artefact.MANIFEST).is_file():
        sample_images.check_inputs(config)
    tokenizer = to_path(config.tokenizer_path or generator / TOKENIZER_FOLDER)
    return {
        "generator_found": model is not None,
        "tokenizer_found": (tokenizer / CONFIG_FILE).is_file(),
        "images": config.num_images,
        "blocks": -(-config.num_images // config.pool.batch_size),
        "classes": model.num_classes if model else None,
        "network_evaluations_per_image": (
            network_evaluations(model, config.sampler) if model else None
        ),
        "actors": config.pool.num_actors,
        "output_path": config.output_path,
    }


def run(config: AnySampleRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import sample_images

    return sample_images.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="sample_images",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
