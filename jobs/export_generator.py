"""Export a generator: a finished run or a peer's file in; safetensors, config, tokenizer and model card out.

    python -m jobs.export_generator run --source-path runs/xar_b --output-path runs/xar_b_export
    python -m jobs.export_generator run --source-path runs/xar_b --checkpoint best
    python -m jobs.export_generator gpt_b --source-path c2i_B_256.pt --tokenizer-path runs/llamagen_vq16_imported

Machine: any; it starts no Ray. Result: a folder for `ImageGenerator.from_pretrained` and for jobs.sample_images. With
--layout peer also a file that the peer's own code loads. Read next: glotok_ray/export/generator.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.jobs import ExportGeneratorRun
from glotok_ray.recipes.export_generator import RECIPES
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job


def describe(export: ExportGeneratorRun) -> dict[str, Any]:
    """The size of the run's generator where the run is there, and else of what the config says of a peer's file."""
    from glotok_ray.pretrained.generator import (
        GENERATOR_FILE,
        TOKENIZER_FOLDER,
        architecture_of,
        build_generator,
        model_config,
    )
    from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE
    from glotok_ray.training.peak_memory import count_parameters
    from glotok_ray.training.without_numbers import LeftUnfilled, on_meta_device

    source = to_path(export.source_path)
    is_run = bool(export.source_path) and (source / GENERATOR_FILE).is_file()
    model = model_config(source) if is_run else export.model
    tokenizer = to_path(export.tokenizer_path or source / TOKENIZER_FOLDER)
    with on_meta_device(), LeftUnfilled():
        generator = build_generator(model)
    return {
        "source_found": bool(export.source_path) and source.exists(),
        "tokenizer_found": (tokenizer / WEIGHTS_FILE).is_file(),
        "architecture": architecture_of(model),
        "parameters": count_parameters(generator),
    }


def run(config: ExportGeneratorRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.export import generator

    return generator.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(argv, name="export_generator", recipes=RECIPES, dry_run=describe, run=run)


if __name__ == "__main__":
    raise SystemExit(main())
