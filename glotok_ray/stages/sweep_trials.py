"""A trial of a sweep, in its own process: train up to the next evaluation, measure, report, and so on to the end.

Training stops for every evaluation, so that a trial that is ended early holds no workers. What is done is recognised:
a trial that is started again reports what it had found and goes on. Read next: glotok_ray/stages/tokenizer_trials.py
"""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glotok_ray import faults
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.on_ray.search import FAILED, stamped
from glotok_ray.recipes import sweep_parts
from glotok_ray.stages import tokenizer_trials
from glotok_ray.stages.failed_rows import keep_reason, not_of_the_row
from glotok_ray.stages.rows import failure_path
from glotok_ray.storage import artefact
from glotok_ray.storage.places import to_path
from glotok_ray.training.trials import STEP, Trial, TrialFiles

TRIALS_FOLDER = "trials"
DISTANCE = "cosine_distance"
"""The bin-free distance of the codebook's cosines to the teacher's."""


def trials_folder(config: SweepRun) -> Path:
    """Where the trials of a sweep lie."""
    return to_path(config.output_path) / TRIALS_FOLDER


def trial_files(config: SweepRun) -> TrialFiles:
    """What is noted of the trials."""
    return TrialFiles(trials_folder(config), config.tokenizer.scaling.storage_retry_minutes)


def trial_recipe(config: SweepRun, trial: Trial) -> TokenizerRun:
    """The tokenizer run of a trial: the base recipe with the trial's changes and the sweep's length."""
    return sweep_parts.trial(config, trials_folder(config), trial.name, trial.changes)


def evaluated_steps(config: SweepRun) -> list[int]:
    """The optimizer steps at which trials are measured; the last is max_steps."""
    every = config.evaluate_every_steps or config.max_steps
    return [*range(every, config.max_steps, every), config.max_steps]


def run_trial(config: SweepRun, name: str) -> Iterator[dict[str, Any]]:
    """The reports of a trial, each after it is noted; of one that fails the reason, as the last one.

    Raises what says nothing of the trial, such as storage that is away.
    """
    files = trial_files(config)
    files.started(
        name, {"unix_s": int(time.time()), "host": socket.gethostname(), "pid": os.getpid()}
    )
    path = failure_path(files.folder, name)
    if path.is_file() and not config.retry_failed:
        yield {FAILED: artefact.read_json(path)["reason"]}
        return
    path.unlink(missing_ok=True)
    try:
        yield from _reports(config, files, files.record(name).trial)
    # Any error of one trial leaves the others as they are.
    except Exception as error:
        if not_of_the_row(error):
            raise
        yield {FAILED: keep_reason(path, error)}


def _reports(config: SweepRun, files: TrialFiles, trial: Trial) -> Iterator[dict[str, Any]]:
    recipe = trial_recipe(config, trial)
    known = {report[STEP]: report for report in files.reports(trial.name)}
    for step in evaluated_steps(config):
        if step not in known:
            known[step] = {STEP: step, **_measured(config, recipe, step)}
            files.reported(trial.name, stamped(known[step]))
            faults.boundary("reported", step)
        yield known[step]


def _measured(config: SweepRun, recipe: TokenizerRun, step: int) -> dict[str, Any]:
    metrics = tokenizer_trials.train_and_measure(recipe, config.evaluation, step=step)
    return {**metrics, DISTANCE: tokenizer_trials.cosine_distance_of(recipe)}
