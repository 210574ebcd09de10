"""Build a tokenizer of several scales over a finished one, on whose codes VAR trains: the tokenizer stays as it is, and
a clustered codebook codes its latents as a residual pyramid.

    python -m jobs.build_scales quickstart
    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.build_scales glotok_16k

Machine: one GPU, or the CPU; it starts no Ray. Result: a tokenizer's folder for jobs.encode_images,
jobs.evaluate_tokenizers and jobs.train_generator. Read next: glotok_ray/stages/build_scales.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.scales import ScalesRun
from glotok_ray.recipes.build_scales import RECIPES
from jobs.command_line import run_job


def describe(config: ScalesRun) -> dict[str, Any]:
    """What would be built; null where the tokenizer is not there yet."""
    from glotok_ray.pretrained.tokenizer import CONFIG_FILE
    from glotok_ray.stages import build_scales
    from glotok_ray.storage.places import to_path

    has_tokenizer = (to_path(config.tokenizer_path) / CONFIG_FILE).is_file()
    model = build_scales.model_config(config) if has_tokenizer else None
    if has_tokenizer and to_path(config.data_path).is_dir():
        build_scales.check_inputs(config)
    return {
        "tokenizer_found": has_tokenizer,
        "image_size": model.image_size if model else None,
        "latent_width": model.tokenizer.latent_width if model else None,
        "indices": sum(side**2 for side in config.sides),
        "codes": config.num_codes,
        "output_path": config.output_path,
    }


def run(config: ScalesRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: torch takes seconds."""
    from glotok_ray.stages import build_scales

    return build_scales.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(argv, name="build_scales", recipes=RECIPES, dry_run=describe, run=run)


if __name__ == "__main__":
    raise SystemExit(main())
