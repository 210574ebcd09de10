"""The whole pipeline on real photographs, from images to report.html, in minutes on a laptop.

    python -m jobs.quickstart quickstart
    python -m jobs.quickstart quickstart --data.source FOLDER --output-path runs/mine

Machine: 2 cores, 24 GiB. Read next: glotok_ray/stages/quickstart.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.quickstart import QuickstartRun
from glotok_ray.recipes.quickstart import RECIPES, STAGES, chain, check_chained
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job


def describe(quickstart: QuickstartRun) -> dict[str, Any]:
    """The stages, and what the trainings cost."""
    from glotok_ray.training.describe import describe_generator, describe_tokenizer

    return {
        "stages": {name: str(to_path(quickstart.output_path) / name) for name in STAGES},
        "tokenizer": describe_tokenizer(quickstart.tokenizer),
        "twin": describe_tokenizer(quickstart.twin),
        "generator": describe_generator(quickstart.generator),
        "far": describe_generator(quickstart.far),
    }


def complete(config: QuickstartRun, recipe: QuickstartRun) -> QuickstartRun:
    """With every stage's folders; raises ValueError for one that was given otherwise."""
    check_chained(config, recipe)
    return chain(config)


def run(config: QuickstartRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import quickstart as stage

    return stage.run(config, fresh=fresh)


def show(answer: dict[str, Any]) -> str:
    """The table of results."""
    from glotok_ray.report.table import results_table

    return results_table(answer)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="quickstart",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
        show=show,
        complete=complete,
    )


if __name__ == "__main__":
    raise SystemExit(main())
