"""Sweep lambda_hist, bin count and alpha of a tokenizer, or train the rows of the paper's Tables 4 and 5.

    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.sweep_tokenizer glotok_16k
    python -m jobs.sweep_tokenizer ablations_tiny

The best recipe is a file that trains: `python -m jobs.train_tokenizer runs/quickstart_sweep/best_recipe.json`.
Read next: glotok_ray/stages/sweep_tokenizer.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glotok_ray.config.sweeps import SweepRun
from glotok_ray.recipes.sweep_tokenizer import RECIPES
from jobs.command_line import run_job


def describe(sweep: SweepRun) -> dict[str, Any]:
    """The trials and the cost of one of them."""
    from glotok_ray.stages import sweep_tokenizer
    from glotok_ray.training.describe import describe_tokenizer

    trials = {
        trial.name: trial.changes or trial.row for trial in sweep_tokenizer.draw_trials(sweep)
    }
    return {
        "trials": trials,
        "steps_per_trial": sweep.max_steps,
        **describe_tokenizer(sweep.tokenizer),
    }


def show(manifest: dict[str, Any]) -> str:
    """The ranked table and the file of the best recipe."""
    table = Path(manifest["table"])
    best = table.with_name("best_recipe.json")
    return table.read_text() + (f"\nbest recipe: {best}\n" if best.is_file() else "")


def run(config: SweepRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import sweep_tokenizer

    return sweep_tokenizer.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="sweep_tokenizer",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
        show=show,
    )


if __name__ == "__main__":
    raise SystemExit(main())
