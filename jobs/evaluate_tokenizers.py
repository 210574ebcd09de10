"""Evaluate tokenizers: finished tokenizers of any system and shards in; one table and one grid out, all rows of the
same images under the same protocol, with the rate in a column of its own.

    python -m jobs.evaluate_tokenizers runs/glotok_16k runs/ibq_16384_imported --data-path data/imagenet/validation \\
        --inception-path download
    python -m jobs.evaluate_tokenizers table_1
    python -m jobs.evaluate_tokenizers runs/a runs/b --data-path data/shards/validation --no-use-gpu --num-images 64

Machine: one GPU, or the CPU; it starts no Ray. Result: table.md, table.csv, metrics.json and reconstructions.png.
Read next: glotok_ray/stages/evaluate_tokenizers.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from glotok_ray.recipes.evaluate_tokenizers import RECIPES
from jobs.named_folders import run_job_on_folders

NAME = "evaluate_tokenizers"


def describe(config: EvaluateTokenizersRun) -> dict[str, Any]:
    """What would be measured: system, indices and bits of each tokenizer that is there, and the number of images; null
    where the shards are not there yet.
    """
    from glotok_ray.report.compared_tokenizers import check_crops, compared_tokenizers, row_of
    from glotok_ray.storage.places import to_path

    there = any(to_path(path).is_dir() for path in config.tokenizer_paths)
    compared = compared_tokenizers(config) if there else []
    dataset = check_crops(config, compared) if to_path(config.data_path).is_dir() else None
    rows = [row_of(one, config.image_size or one.model.image_size, {}) for one in compared]
    return {
        "tokenizers": {
            row.name: {"system": row.system, "indices": row.indices, "bits": row.bits}
            for row in rows
        },
        "images": config.num_images or (dataset.num_images if dataset else None),
        "output_path": config.output_path,
    }


def run(config: EvaluateTokenizersRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs."""
    from glotok_ray.stages import evaluate_tokenizers

    return evaluate_tokenizers.run(config, fresh=fresh)


def show(manifest: dict[str, Any]) -> str:
    """The table, and where the pictures are."""
    from glotok_ray.storage.places import to_path

    folder = to_path(manifest["config"]["output_path"])
    return (folder / "table.md").read_text() + f"\nimages: {folder / 'reconstructions.png'}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code. Arguments before the first flag are a recipe, a JSON file that holds a
    resolved config, or the tokenizers' folders.
    """
    return run_job_on_folders(
        argv,
        name=NAME,
        recipes=RECIPES,
        of_folders=lambda paths: EvaluateTokenizersRun(tokenizer_paths=paths),
        dry_run=describe,
        run=run,
        show=show,
    )


if __name__ == "__main__":
    raise SystemExit(main())
