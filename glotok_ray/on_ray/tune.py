"""A Ray Tune sweep over lambda_hist, bin count and alpha, or over the paper's ablation rows: equal short trainings,
judged by their reconstructions.

The loss is never the judge: its meaning changes with bins and alpha. The teacher is re-binned for
each trial, not rebuilt.
Read next: glotok_ray/on_ray/train.py
"""

import itertools
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import ray.tune

from glotok_ray import artefact, begun, config, faults, ownership
from glotok_ray.config import RelationConfig, SweepRun, TokenizerRun, override, with_absolute_paths
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.on_ray import actor_pool, cluster, evaluate, shard, teacher, train
from glotok_ray.on_ray.evaluation_plan import check_pictures
from glotok_ray.on_ray.failed_rows import FAILED, NOT_THE_ROWS, attempt, failed_of, keep_reason
from glotok_ray.on_ray.failures import chain
from glotok_ray.on_ray.sweep_results import SWEPT, write_results
from glotok_ray.progress import ProgressLine
from glotok_ray.recipes import shard as shard_recipes
from glotok_ray.recipes import teacher as teacher_recipes
from glotok_ray.recipes.tokenizer import ROWS
from glotok_ray.training.inputs import check_inputs

logger = logging.getLogger(__name__)

_ROW_FIGURES = ("relation_kl", "images_per_s")


@dataclass(frozen=True)
class Trial:
    """One point of the search space, in the dotted names of the command line, or one row of the ablations."""

    name: str
    """The trial's run folder."""
    changes: dict[str, Any]
    row: str = "glotok"
    """Name of `glotok_ray.recipes.tokenizer.ROWS`."""


def check_rows(rows: Sequence[str], known: Collection[str]) -> None:
    """Raise ValueError for an unknown or repeated name, with the known ones."""
    if not set(rows) <= set(known) or len(set(rows)) < len(rows):
        raise ValueError(
            f"rows = {', '.join(rows)}: must be different ones of {', '.join(known)}; correct them"
        )


def draw_trials(sweep: SweepRun) -> list[Trial]:
    """The sweep's rows; without any, the baseline (relation weight 0) first, then points of the grid in an order
    drawn by the seed, none twice.

    With weight 0, bins and alpha change nothing, so the grid holds one such point.
    """
    if sweep.rows:
        check_rows(sweep.rows, ROWS)
        return [Trial(row, {}, row) for row in sweep.rows]
    baseline = {"loss.relation_weight": 0.0}
    points = [
        {
            "loss.relation_weight": weight,
            "loss.relation.num_bins": bins,
            "loss.relation.alpha": factor * RelationConfig(num_bins=bins).sharpness,
        }
        for weight, bins, factor in itertools.product(
            sweep.relation_weights, sweep.bins, sweep.alpha_factors
        )
        if weight > 0
    ]
    order = seeded_generator("sweep", sweep.seed).permutation(len(points))
    chosen = ([baseline] if 0.0 in sweep.relation_weights else []) + [
        points[index] for index in order
    ]
    if len(chosen) < sweep.num_trials:
        raise ValueError(
            f"num_trials = {sweep.num_trials}: the search space holds only {len(chosen)} "
            "points; lower it, or add values to relation_weights, bins or alpha_factors"
        )
    return [
        Trial(f"trial_{number:02d}", changes)
        for number, changes in enumerate(chosen[: sweep.num_trials])
    ]


def trial_recipe(sweep: SweepRun, trial: Trial) -> TokenizerRun:
    """The tokenizer run of a trial: the base recipe with the trial's changes and the sweep's length."""
    folder = Path(sweep.output_path) / "trials"
    return override(
        ROWS[trial.row](sweep.tokenizer),
        {
            **trial.changes,
            "name": trial.name,
            "output_path": str(folder),
            "schedule.stop_after_steps": sweep.max_steps,
        },
    )


def run_trial(sweep: SweepRun, trial: Trial) -> dict[str, Any]:
    """The figures of a trial, or the reason why it has none (`glotok_ray.on_ray.failed_rows.FAILED`)."""
    figures = attempt(
        _failure_path(sweep, trial.name),
        lambda: _figures_of(sweep, trial),
        retry=sweep.retry_failed,
    )
    return {"trial": trial.name, FAILED: "", **trial.changes, **figures}


def _failure_path(sweep: SweepRun, name: str) -> Path:
    return Path(sweep.output_path) / "trials" / f"{name}_failure.json"


def _figures_of(sweep: SweepRun, trial: Trial) -> dict[str, Any]:
    """Train and judge one trial; finished parts are recognised, so an interrupted sweep goes on."""
    recipe = trial_recipe(sweep, trial)
    train.run(recipe)
    folder = Path(recipe.output_path) / trial.name
    judged = override(
        sweep.evaluation,
        {
            "tokenizer_path": str(folder),
            "output_path": str(folder.with_name(trial.name + "_evaluation")),
        },
    )
    evaluate.run(judged)
    metrics = artefact.read_json(Path(judged.output_path) / "metrics.json")
    logged = artefact.read_manifest(folder, "tokenizer")["figures"]
    figures = {
        short: logged[name]
        for short, name in (
            ("relation_kl", "eval/relation_kl"),
            ("images_per_s", "time/images_per_s"),
        )
        if name in logged
    }
    return {**reconstruction_figures(metrics), **figures}


def reconstruction_figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The judges and what explains them, from metrics.json."""
    names = {
        "psnr": "reconstruction_psnr",
        "fd_effnet": "reconstruction_fd_effnet",
        **{name: name for name in metrics if name.endswith("_usage")},
    }
    # None is an undefined figure, such as the PSNR of images that are all reproduced exactly.
    values = {short: metrics[name]["value"] for short, name in names.items()}
    return {short: float("nan") if value is None else value for short, value in values.items()}


@ownership.holding()
def run(sweep: SweepRun, *, fresh: bool = False) -> dict[str, Any]:
    """Run every trial under Ray Tune and write results.csv, table.md, sweep.png and best_recipe.json."""
    # Ray Tune gives every trial a working folder of its own.
    sweep = with_absolute_paths(sweep)
    folder = Path(sweep.output_path)
    trials = draw_trials(sweep)
    if not sweep.tokenizer.teacher_path:
        raise ValueError("tokenizer.teacher_path = '': a sweep needs a teacher; give its folder")
    if sweep.inputs == "quickstart":
        make_inputs(sweep)
    inputs = verified_inputs(sweep, trials)
    settings = bound_settings(sweep)
    mark = artefact.fingerprint("sweep", settings, inputs)
    # One that is unfinished may go on with more trials or fewer.
    question = artefact.fingerprint("sweep", {**settings, "num_trials": None}, inputs)
    if fresh:
        begun.set_aside(folder)
    manifest = artefact.finished(folder, "sweep", mark)
    if manifest and not (sweep.retry_failed and manifest["failed"]):
        logger.info("sweep: already finished: %s", folder)
        return manifest
    begun.go_on(folder, question)
    frame = _tune(sweep, trials, folder)
    failed = failed_of({str(row["trial"]): row for row in frame.to_dict("records")}, "trials")
    if manifest:
        begun.reopen(folder, question)
    best = write_results(sweep, frame, failed, folder)
    return artefact.write_manifest(
        folder,
        "sweep",
        mark,
        exclude=("trials", "tune"),
        best=best,
        failed=failed,
        table=str(folder / "table.md"),
    )


def bound_settings(sweep: SweepRun) -> dict[str, Any]:
    """The settings that decide what a sweep finds; workers, pools and how often checkpoints come do not."""
    settings = config.to_dict(sweep)
    for name in ("output_path", "max_concurrent_trials", "retry_failed"):
        del settings[name]
    settings["tokenizer"] = train.bound_settings(sweep.tokenizer)
    settings["evaluation"] = actor_pool.bound_settings(sweep.evaluation)
    return settings


def make_inputs(sweep: SweepRun) -> None:
    """The quickstart's shards and teacher, in the folders where the sweep reads them; finished ones are recognised."""
    train_path = Path(sweep.tokenizer.data.train_path)
    folder = train_path.parent
    if train_path != folder / "train" or Path(sweep.evaluation.data_path) != folder / "validation":
        raise ValueError(
            f"evaluation.data_path = {sweep.evaluation.data_path!r}, tokenizer.data.train_path = {str(train_path)!r}: "
            'with inputs = "quickstart" they must be validation and train of one folder, which receives the shards; '
            "correct them, or give shards of your own and --inputs given"
        )
    shard.run(override(shard_recipes.quickstart(), {"output_path": str(folder)}))
    places = {"data_path": str(train_path), "output_path": sweep.tokenizer.teacher_path}
    teacher.run(override(teacher_recipes.quickstart(), places))


def verified_inputs(sweep: SweepRun, trials: list[Trial]) -> list[Path]:
    """What all trials read, verified here once for all of them; raises ArtefactError for what would stop one of them,
    hours later perhaps.
    """
    inputs = [
        Path(sweep.tokenizer.data.train_path),
        Path(sweep.tokenizer.teacher_path),
        Path(sweep.evaluation.data_path),
    ]
    for path, kind in zip(inputs, ("shards", "teacher", "shards"), strict=True):
        artefact.verify_once(path, kind)
    if sweep.tokenizer.data.validation_path:
        artefact.verify_once(Path(sweep.tokenizer.data.validation_path), "shards")
    for trial in trials:
        check_inputs(trial_recipe(sweep, trial))
    check_pictures(sweep.evaluation, sweep.tokenizer.model)
    return inputs


def _tune(sweep: SweepRun, trials: list[Trial], folder: Path) -> pandas.DataFrame:
    cluster.connect()
    by_name = {trial.name: trial for trial in trials}

    def trainable(space: dict[str, Any]) -> None:
        ray.tune.report(run_trial(sweep, by_name[space["trial"]]))

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    tuner = ray.tune.Tuner(
        # The driver of a trial only waits for its workers: a whole CPU would starve them on a small machine.
        ray.tune.with_resources(trainable, {"CPU": 0.01}),
        param_space={"trial": ray.tune.grid_search(list(by_name))},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=sweep.max_concurrent_trials),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            callbacks=[_ShownTrials(len(trials))],
        ),
    )
    faults.boundary("unit", 0)
    rows = [_row_of(sweep, result, by_name) for result in tuner.fit()]
    figures = ("psnr", "fd_effnet", "semantic_usage", "visual_usage")
    columns = ["trial", *(_ROW_FIGURES if sweep.rows else SWEPT), *figures, FAILED]
    return pandas.DataFrame(rows).reindex(columns=columns)


def _row_of(sweep: SweepRun, result: Any, trials: dict[str, Trial]) -> dict[str, Any]:
    """What a trial reported; of one whose process died, why. Raises what ends the whole sweep."""
    if result.error is None:
        if FAILED not in (result.metrics or {}):
            # After Ctrl-C Ray Tune returns as if all were done, and trials that have not ended have no figures.
            raise KeyboardInterrupt
        return result.metrics
    for cause in chain(result.error):
        if isinstance(cause, NOT_THE_ROWS):
            raise cause
    trial = trials[result.config["trial"]]
    reason = keep_reason(_failure_path(sweep, trial.name), result.error)
    return {"trial": trial.name, **trial.changes, FAILED: reason}


class _ShownTrials(ray.tune.Callback):
    """A line for every trial that ends, with the time that the rest will take."""

    def __init__(self, number: int) -> None:
        self._line = ProgressLine("sweep", number, "trials", interval_s=0.0)
        self._done = 0
        self._line.update(0)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune in the driver."""
        self._done += 1
        result = trial.last_result
        facts = f"{result['trial']}: failed: {result[FAILED]}"
        if not result[FAILED]:
            facts = (
                f"{result['trial']}: PSNR {result['psnr']:.4g}, FD-EffNet {result['fd_effnet']:.4g}"
            )
        faults.boundary("unit", self._done)
        self._line.update(self._done, facts)
