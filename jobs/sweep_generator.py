"""Train, sample and measure the rows of xAR's ablations: entities, cell sizes and noisy context.

    python -m jobs.sweep_generator ablations_tiny
    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.sweep_generator ablations

Machine: 32 GPUs per row of `ablations`; `ablations_tiny` makes its own inputs and runs on 2 cores. Result: results.csv,
and table.md with FD-EffNet beside the published FID. Read next: glotok_ray/stages/ablations.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.sweeps import GeneratorAblationRun
from glotok_ray.recipes.generator_ablations import RECIPES
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job


def describe(config: GeneratorAblationRun) -> dict[str, Any]:
    """The rows, and what the training of the base recipe costs."""
    from glotok_ray.recipes.sweep_parts import chosen_rows, generator_row
    from glotok_ray.sampling.images import network_evaluations
    from glotok_ray.training.describe import describe_generator

    rows = {}
    for row in chosen_rows(config):
        training, samples, _ = generator_row(config, to_path(config.output_path), row)
        rows[row] = {
            "entity": training.model.entity,
            "entities": training.model.num_entities,
            "tokens": training.model.num_tokens,
            "context": training.flow.context,
            "network_evaluations_per_image": network_evaluations(training.model, samples.sampler),
        }
    return {"rows": rows, **describe_generator(config.generator)}


def show(manifest: dict[str, Any]) -> str:
    """The tables."""
    return to_path(manifest["table"]).read_text()


def run(config: GeneratorAblationRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import ablations

    return ablations.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="sweep_generator",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
        show=show,
    )


if __name__ == "__main__":
    raise SystemExit(main())
