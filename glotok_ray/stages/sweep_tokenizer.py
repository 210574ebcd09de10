"""A Ray Tune search over lambda_hist, bins, alpha and other fields: short trainings, ranked by their reconstructions.

Read next: glotok_ray/stages/sweep_trials.py, glotok_ray/stages/sweep_finalists.py
"""

import logging
from pathlib import Path
from typing import Any

from glotok_ray.config import overrides
from glotok_ray.config.overrides import with_absolute_paths
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.evaluation.extractors import file_digests
from glotok_ray.on_ray.search import run_search
from glotok_ray.on_ray.tune import TUNE_FOLDER
from glotok_ray.report.sweep_summary import label, ranked_trials
from glotok_ray.stages import tokenizer_trials, train_tokenizer
from glotok_ray.stages.failed_rows import FAILED, failed_of, keep_reason, not_of_the_row
from glotok_ray.stages.rows import failure_path
from glotok_ray.stages.sweep_finalists import (
    FINALISTS_FOLDER,
    chosen_finalists,
    run_finalists,
)
from glotok_ray.stages.sweep_results import write_results
from glotok_ray.stages.sweep_trials import TRIALS_FOLDER, run_trial, trial_files, trial_recipe
from glotok_ray.storage import ownership
from glotok_ray.storage.output import look
from glotok_ray.storage.places import to_path
from glotok_ray.training.search_space import corners
from glotok_ray.training.suggestions import first_trials
from glotok_ray.training.trials import STEP, Trial, TrialRecord

logger = logging.getLogger(__name__)


@ownership.holding()
def run(config: SweepRun, *, fresh: bool = False) -> dict[str, Any]:
    """Run the trials and the finalists under Ray Tune and write results.csv, finalists.csv, table.md, sweep.html,
    sweep.png and best_recipe.json.
    """
    # Ray Tune gives every trial a working folder of its own.
    config = with_absolute_paths(config)
    trials = first_trials(config)
    tokenizer_trials.require_teacher(config.tokenizer)
    if config.inputs == "quickstart":
        tokenizer_trials.make_inputs(config)
    inputs = check_inputs(config, trials)
    settings = bound_settings(config)
    output = look(
        to_path(config.output_path),
        "sweep",
        settings,
        inputs,
        fresh=fresh,
        # One that is unfinished may go on with more trials or fewer.
        begun_settings={**settings, "num_trials": None},
    )
    if output.finished is not None and not (config.retry_failed and output.finished["failed"]):
        logger.info("sweep: already finished: %s", output.folder)
        return output.finished
    folder = output.go_on(adopt=TRIALS_FOLDER)
    records = _searched(config)
    failed = failed_of({item.trial.name: _row(item) for item in records}, TRIALS_FOLDER)
    finalists = chosen_finalists(config, ranked_trials(config, records))
    measured = run_finalists(config, finalists)
    if measured:
        failed |= failed_of(measured, FINALISTS_FOLDER)
    output.reopen()
    best = write_results(config, records, finalists, measured, folder)
    return output.finish(
        exclude=(TRIALS_FOLDER, FINALISTS_FOLDER, TUNE_FOLDER),
        best=best,
        failed=failed,
        table=str(folder / "table.md"),
    )


def bound_settings(config: SweepRun) -> dict[str, Any]:
    """The settings that decide what a sweep finds; workers, pools and how often checkpoints come do not."""
    return {
        **overrides.bound_settings(config),
        "tokenizer": train_tokenizer.bound_settings(config.tokenizer),
        **file_digests(config.evaluation),
    }


def check_inputs(config: SweepRun, trials: list[Trial]) -> list[Path]:
    """What all trials read, verified once; raises ArtefactError or ValueError for what would stop one of them, of a
    range at its ends.
    """
    ends = [Trial("end", changes) for changes in corners(config)]
    recipes = [trial_recipe(config, each) for each in (*trials, *ends)]
    return tokenizer_trials.check_inputs(config, recipes)


def _searched(config: SweepRun) -> list[TrialRecord]:
    """All trials that ended. Where an unfinished sweep goes on with fewer, others have begun, and are left."""
    files = trial_files(config)
    if config.retry_failed:
        for record in files.records():
            if record.status == "failed":
                files.reopen(record.trial.name)
    run_search(
        config,
        files,
        lambda name: run_trial(config, name),
        folder=files.folder.parent,
        describe=lambda record: _described(config, record),
        ends_all=not_of_the_row,
        keep_reason=lambda name, error: keep_reason(failure_path(files.folder, name), error),
    )
    return [record for record in files.records() if record.status]


def _row(record: TrialRecord) -> dict[str, Any]:
    return {FAILED: record.reason if record.status == "failed" else ""}


def _described(config: SweepRun, record: TrialRecord) -> str:
    """A trial that ended, in words."""
    name, last = record.trial.name, record.last
    if record.status == "failed" or not last:
        return f"{name}: failed: {record.reason or 'its process died'}"
    values = tokenizer_trials.shown_metrics(last)
    early = f", stopped at step {last[STEP]}" if record.status == "stopped" else ""
    judged = last.get(config.judged_by)
    own = (
        f"{label(config.judged_by)} {judged:.4g}, " if config.judged_by == "fid" and judged else ""
    )
    return f"{name}: {own}{values}{early}"
