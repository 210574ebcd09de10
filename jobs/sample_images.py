r"""Sample a generator: class-conditional images as an ADM-style samples.npz.

    python -m jobs.sample_images quickstart
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.sample_images xar_b

Machine: 8 GPUs for 50,000 images (xAR reports 9.8 images/s for its B size on one A100 at batch
128); `quickstart` runs on 2 cores. Result: samples.npz (arr_0, uint8, NHWC), samples.parquet (key,
label) and grid.png, equal for any number of actors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glotok_ray import artefact
from glotok_ray.config import SampleRun, XARConfig, from_dict
from glotok_ray.nn.tokenizer import CONFIG_FILE
from glotok_ray.on_ray import sample
from glotok_ray.recipes.sample import RECIPES
from jobs.command_line import run_job


def describe(config: SampleRun) -> dict[str, Any]:
    """What would run: images, blocks and, when the generator is there, network evaluations per
    image.
    """
    facts = Path(config.generator_path) / "generator.json"
    model = from_dict(XARConfig, artefact.read_json(facts)["model"]) if facts.is_file() else None
    return {
        "generator_found": model is not None,
        "tokenizer_found": (Path(config.tokenizer_path) / CONFIG_FILE).is_file(),
        "images": config.num_images,
        "blocks": -(-config.num_images // config.pool.batch_size),
        "classes": model.num_classes if model else None,
        "solver_steps_per_image": model.num_cells * config.sampler.num_steps if model else None,
        "actors": config.pool.num_actors,
        "output_path": config.output_path,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="sample_images",
        recipes=RECIPES,
        dry_run=describe,
        run=sample.run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
