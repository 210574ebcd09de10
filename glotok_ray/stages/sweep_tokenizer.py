"""A Ray Tune sweep over lambda_hist, bin count and alpha: equal short trainings, ranked by their reconstructions.

Read next: glotok_ray/stages/tokenizer_trials.py
"""

import logging
from pathlib import Path
from typing import Any

import pandas

from glotok_ray.config import overrides
from glotok_ray.config.overrides import with_absolute_paths
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.on_ray.tune import TUNE_FOLDER
from glotok_ray.recipes import sweep_parts
from glotok_ray.stages import tokenizer_trials, train_tokenizer
from glotok_ray.stages.failed_rows import FAILED, failed_of
from glotok_ray.stages.rows import run_rows
from glotok_ray.stages.sweep_results import SWEPT, write_results
from glotok_ray.storage import ownership
from glotok_ray.storage.output import look
from glotok_ray.storage.places import to_path
from glotok_ray.training.trials import Trial, draw_trials

logger = logging.getLogger(__name__)

TRIALS_FOLDER = "trials"


def trial_recipe(config: SweepRun, trial: Trial) -> TokenizerRun:
    """The tokenizer run of a trial: the base recipe with the trial's changes and the sweep's length."""
    folder = to_path(config.output_path) / TRIALS_FOLDER
    return sweep_parts.trial(config, folder, trial.name, trial.changes)


@ownership.holding()
def run(config: SweepRun, *, fresh: bool = False) -> dict[str, Any]:
    """Run every trial under Ray Tune and write results.csv, table.md, sweep.png and best_recipe.json."""
    # Ray Tune gives every trial a working folder of its own.
    config = with_absolute_paths(config)
    trials = draw_trials(config)
    tokenizer_trials.require_teacher(config.tokenizer)
    if config.inputs == "quickstart":
        tokenizer_trials.make_inputs(config)
    settings = bound_settings(config)
    output = look(
        to_path(config.output_path),
        "sweep",
        settings,
        check_inputs(config, trials),
        fresh=fresh,
        # One that is unfinished may go on with more trials or fewer.
        begun_settings={**settings, "num_trials": None},
    )
    if output.finished is not None and not (config.retry_failed and output.finished["failed"]):
        logger.info("sweep: already finished: %s", output.folder)
        return output.finished
    folder = output.go_on(adopt=True)
    rows = _run_trials(config, trials, folder)
    failed = failed_of(rows, TRIALS_FOLDER)
    output.reopen()
    columns = ["trial", *SWEPT, *tokenizer_trials.METRICS, FAILED]
    frame = pandas.DataFrame([{"trial": name, **row} for name, row in rows.items()])
    best = write_results(config, frame.reindex(columns=columns), failed, folder)
    return output.finish(
        exclude=(TRIALS_FOLDER, TUNE_FOLDER),
        best=best,
        failed=failed,
        table=str(folder / "table.md"),
    )


def bound_settings(config: SweepRun) -> dict[str, Any]:
    """The settings that decide what a sweep finds; workers, pools and how often checkpoints come do not."""
    return {
        **overrides.bound_settings(config),
        # Ablations were sweeps once, and a search had no rows: its folders are recognised by that.
        "rows": [],
        "tokenizer": train_tokenizer.bound_settings(config.tokenizer),
    }


def check_inputs(config: SweepRun, trials: list[Trial]) -> list[Path]:
    """What all trials read; raises ArtefactError for what would stop one of them."""
    return tokenizer_trials.check_inputs(config, [trial_recipe(config, each) for each in trials])


def _run_trials(config: SweepRun, trials: list[Trial], folder: Path) -> dict[str, dict[str, Any]]:
    by_name = {trial.name: trial for trial in trials}

    def measure(name: str) -> dict[str, Any]:
        recipe = trial_recipe(config, by_name[name])
        return tokenizer_trials.train_and_measure(recipe, config.evaluation)

    rows = run_rows(
        list(by_name),
        measure,
        folder=folder / TRIALS_FOLDER,
        retry_failed=config.retry_failed,
        max_concurrent=config.max_concurrent_trials,
        shown=tokenizer_trials.shown_metrics,
        shown_as=("sweep", "trials"),
    )
    return {name: {**by_name[name].changes, **row} for name, row in rows.items()}
