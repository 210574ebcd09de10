"""Search lambda_hist, bins, alpha and other fields of a tokenizer, or train the rows of the paper's Tables 4 and 5.

    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.sweep_tokenizer glotok_16k
    python -m jobs.sweep_tokenizer quickstart_search
    python -m jobs.sweep_tokenizer ablations_tiny

The best recipe is a file that trains: `python -m jobs.train_tokenizer runs/quickstart_sweep/best_recipe.json`.
Read next: glotok_ray/stages/sweep_tokenizer.py, glotok_ray/stages/ablations.py
"""

from collections.abc import Callable, Sequence
from typing import Any

from glotok_ray.config.sweeps import SweepRun, TokenizerAblationRun
from glotok_ray.recipes import sweep_tokenizer as searches
from glotok_ray.recipes import tokenizer_ablations
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job

RECIPES: dict[str, Callable[[], SweepRun | TokenizerAblationRun]] = {
    **searches.RECIPES,
    **tokenizer_ablations.RECIPES,
}


def describe(config: SweepRun | TokenizerAblationRun) -> dict[str, Any]:
    """The trials, or the rows, and the cost of one of them."""
    from glotok_ray.recipes.sweep_parts import check_lengths, chosen_rows, tokenizer_row, trial
    from glotok_ray.training.describe import describe_tokenizer
    from glotok_ray.training.suggestions import first_trials

    folder = to_path(config.output_path)
    if isinstance(config, TokenizerAblationRun):
        rows = chosen_rows(config)
        trainings = [tokenizer_row(config, folder, row) for row in rows]
        what = {"rows": list(rows), "steps_per_row": config.max_steps}
    else:
        # Of Optuna's, those that it draws before it learns.
        trials = {each.name: each.changes for each in first_trials(config)}
        trainings = [trial(config, folder, *each) for each in trials.items()]
        what = {
            "trials": trials,
            "num_trials": config.num_trials,
            "judged_by": config.judged_by,
            "steps_per_trial": config.max_steps,
        }
    found = describe_tokenizer(config.tokenizer)
    check_lengths(config, trainings, found["num_images"])
    return {**what, **found}


def show(manifest: dict[str, Any]) -> str:
    """The tables, and of a search the file of the best recipe."""
    table = to_path(manifest["table"])
    best = table.with_name("best_recipe.json")
    page = table.with_name("sweep.html")
    told = f"\nbest recipe: {best}\npage: {page}\n" if best.is_file() else ""
    return table.read_text() + told


def run(config: SweepRun | TokenizerAblationRun, *, fresh: bool = False) -> dict[str, Any]:
    """The search or the rows, imported when they run: Ray and torch take seconds."""
    from glotok_ray.stages import ablations, sweep_tokenizer

    if isinstance(config, TokenizerAblationRun):
        return ablations.run(config, fresh=fresh)
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
