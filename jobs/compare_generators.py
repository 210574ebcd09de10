"""Compare generators: finished generators of any kind and validation shards in; samples, metrics, images per second,
parameters and tokens of all in one table with the paper's rows, and one grid.

    python -m jobs.compare_generators runs/xar_b runs/var_d16_imported \\
        --evaluation.data-path data/imagenet/validation --evaluation.inception-path download
    python -m jobs.compare_generators table_2
    python -m jobs.compare_generators quickstart
    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.compare_generators table_2

Machine: 8 GPUs for 50,000 images of each; `quickstart` runs on 2 cores. Result: table.md, table.csv, metrics.json and
samples.png. Read next: glotok_ray/stages/compare_generators.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.generator_comparison import CompareGeneratorsRun
from glotok_ray.recipes.compare_generators import RECIPES
from jobs.named_folders import run_job_on_folders

NAME = "compare_generators"


def describe(config: CompareGeneratorsRun) -> dict[str, Any]:
    """What would be compared: kind, parameters, tokens and passes of each generator that is there, and its recipe."""
    from glotok_ray.storage.places import to_path

    answer = {"images": config.num_images, "output_path": config.output_path}
    if not any(to_path(path).is_dir() for path in config.generator_paths):
        return {"generators": {}, **answer}
    # What reads the folders takes seconds to import.
    from glotok_ray.pretrained.generator import model_config
    from glotok_ray.recipes.table_2 import recipe_of, row_of
    from glotok_ray.report.linked_models import read_generator
    from glotok_ray.sampling.images import network_evaluations
    from glotok_ray.stages import compare_generators

    compared = compare_generators.compared_generators(config)
    evaluation = config.evaluation
    shards = [evaluation.data_path, *filter(None, [evaluation.training_path])]
    if compared and all(to_path(path).is_dir() for path in shards):
        compare_generators.check_inputs(config, compared)
    found = {}
    for one in compared:
        folder = to_path(one.samples.generator_path)
        linked, model = read_generator(folder), model_config(folder)
        recipe = recipe_of(linked.name, model)
        found[one.name] = {
            "kind": linked.architecture,
            "parameters": linked.parameters,
            "tokens": linked.tokens,
            "network_evaluations_per_image": network_evaluations(model, one.samples.sampler),
            "recipe": recipe,
            "row_of_table_2": row_of(recipe),
        }
    return {"generators": found, **answer}


def run(config: CompareGeneratorsRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs."""
    from glotok_ray.stages import compare_generators

    return compare_generators.run(config, fresh=fresh)


def show(manifest: dict[str, Any]) -> str:
    """The table, and where the pictures are."""
    from glotok_ray.storage.places import to_path

    folder = to_path(manifest["config"]["output_path"])
    return (folder / "table.md").read_text() + f"\nimages: {folder / 'samples.png'}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code. Arguments before the first flag are a recipe, a JSON file that holds a
    resolved config, or the generators' folders.
    """
    return run_job_on_folders(
        argv,
        name=NAME,
        recipes=RECIPES,
        of_folders=lambda paths: CompareGeneratorsRun(generator_paths=paths),
        dry_run=describe,
        run=run,
        show=show,
    )


if __name__ == "__main__":
    raise SystemExit(main())
