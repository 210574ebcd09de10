"""Train a generator on codes: xAR, FAR and those that the paper compares with (paper section 3.4 and Table 2).

    python -m jobs.train_generator quickstart
    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.train_generator xar_b

Machine: 32 GPUs for xar_b, 64 for xar_l and xar_h, 8 for far_b, 16 for far_l; any number that divides the global batch
does it, by accumulation. Expected on glotok_16k: gFID 2.12 (xar_b), 1.75 (xar_h), 3.13 (far_b), 2.98 (far_l).
Read next: glotok_ray/on_ray/train.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.runs import AnyGeneratorRun
from glotok_ray.recipes.train_generator import RECIPES
from jobs.command_line import run_job


def describe(config: AnyGeneratorRun) -> dict[str, Any]:
    """What would run."""
    from glotok_ray.training.describe import describe_generator

    return describe_generator(config)


def run(config: AnyGeneratorRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import train_generator

    return train_generator.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="train_generator",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
