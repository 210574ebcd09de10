"""A Ray Tune sweep over lambda_hist, bin count and alpha, or over the paper's ablation rows: equal short trainings,
measured by their reconstructions.

The loss is never the measure: its meaning changes with bins and alpha. The teacher is re-binned for
each trial, not rebuilt.
Read next: glotok_ray/on_ray/train.py
"""

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from glotok_ray.config import overrides
from glotok_ray.config.losses import RelationConfig
from glotok_ray.config.overrides import override, with_absolute_paths
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.evaluation.plan import check_images
from glotok_ray.on_ray import tune
from glotok_ray.on_ray.failures import chain
from glotok_ray.on_ray.tune import TUNE_FOLDER, TrialResult
from glotok_ray.recipes import build_teacher as teacher_recipes
from glotok_ray.recipes import shard_images as shard_recipes
from glotok_ray.recipes.train_tokenizer import ROWS
from glotok_ray.stages import build_teacher, evaluate_images, shard_images, train_tokenizer
from glotok_ray.stages.failed_rows import FAILED, NOT_THE_ROWS, attempt, failed_of, keep_reason
from glotok_ray.stages.sweep_results import SWEPT, write_results
from glotok_ray.storage import artefact, begun, ownership
from glotok_ray.training.inputs import check_inputs

logger = logging.getLogger(__name__)

_ROW_METRICS = ("relation_kl", "images_per_s")


@dataclass(frozen=True)
class Trial:
    """One point of the search space, in the dotted names of the command line, or one row of the ablations."""

    name: str
    """The trial's run folder."""
    changes: dict[str, Any]
    row: str = "glotok"
    """Name of `glotok_ray.recipes.train_tokenizer.ROWS`."""


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
    """The metrics of a trial, or the reason why it has none (`glotok_ray.stages.failed_rows.FAILED`)."""
    metrics = attempt(
        _failure_path(sweep, trial.name),
        lambda: _metrics_of(sweep, trial),
        retry=sweep.retry_failed,
    )
    return {"trial": trial.name, FAILED: "", **trial.changes, **metrics}


def _failure_path(sweep: SweepRun, name: str) -> Path:
    return Path(sweep.output_path) / "trials" / f"{name}_failure.json"


def _metrics_of(sweep: SweepRun, trial: Trial) -> dict[str, Any]:
    """Train and measure one trial; finished parts are recognised, so an interrupted sweep goes on."""
    recipe = trial_recipe(sweep, trial)
    train_tokenizer.run(recipe)
    folder = Path(recipe.output_path) / trial.name
    measured = override(
        sweep.evaluation,
        {
            "tokenizer_path": str(folder),
            "output_path": str(folder.with_name(trial.name + "_evaluation")),
        },
    )
    evaluate_images.run(measured)
    entries = artefact.read_json(Path(measured.output_path) / "metrics.json")
    logged = artefact.metrics_of(artefact.read_manifest(folder, "tokenizer"))
    metrics = {
        short: logged[name]
        for short, name in (
            ("relation_kl", "eval/relation_kl"),
            ("images_per_s", "time/images_per_s"),
        )
        if name in logged
    }
    return {**reconstruction_metrics(entries), **metrics}


def reconstruction_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """The measures and what explains them, from metrics.json."""
    names = {
        "psnr": "reconstruction_psnr",
        "fd_effnet": "reconstruction_fd_effnet",
        **{name: name for name in metrics if name.endswith("_usage")},
    }
    # None is an undefined metric, such as the PSNR of images that are all reproduced exactly.
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
    fingerprint = artefact.fingerprint("sweep", settings, inputs)
    # One that is unfinished may go on with more trials or fewer.
    unfinished_fingerprint = artefact.fingerprint("sweep", {**settings, "num_trials": None}, inputs)
    if fresh:
        begun.set_aside(folder)
    manifest = artefact.finished(folder, "sweep", fingerprint)
    if manifest and not (sweep.retry_failed and manifest["failed"]):
        logger.info("sweep: already finished: %s", folder)
        return manifest
    begun.go_on(folder, unfinished_fingerprint)
    frame = _run_trials(sweep, trials, folder)
    failed = failed_of({str(row["trial"]): row for row in frame.to_dict("records")}, "trials")
    if manifest:
        begun.reopen(folder, unfinished_fingerprint)
    best = write_results(sweep, frame, failed, folder)
    return artefact.write_manifest(
        folder,
        "sweep",
        fingerprint,
        exclude=("trials", TUNE_FOLDER),
        best=best,
        failed=failed,
        table=str(folder / "table.md"),
    )


def bound_settings(sweep: SweepRun) -> dict[str, Any]:
    """The settings that decide what a sweep finds; workers, pools and how often checkpoints come do not."""
    return {
        **overrides.bound_settings(sweep),
        "tokenizer": train_tokenizer.bound_settings(sweep.tokenizer),
    }


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
    shard_images.run(override(shard_recipes.quickstart(), {"output_path": str(folder)}))
    places = {"data_path": str(train_path), "output_path": sweep.tokenizer.teacher_path}
    build_teacher.run(override(teacher_recipes.quickstart(), places))


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
    check_images(sweep.evaluation, sweep.tokenizer.model)
    return inputs


def _run_trials(sweep: SweepRun, trials: list[Trial], folder: Path) -> pandas.DataFrame:
    by_name = {trial.name: trial for trial in trials}
    results = tune.run_trials(
        list(by_name),
        lambda name: run_trial(sweep, by_name[name]),
        folder=folder,
        max_concurrent=sweep.max_concurrent_trials,
        describe=_describe_row,
    )
    rows = [_row_of(sweep, result, by_name[result.name]) for result in results]
    metrics = ("psnr", "fd_effnet", "semantic_usage", "visual_usage")
    columns = ["trial", *(_ROW_METRICS if sweep.rows else SWEPT), *metrics, FAILED]
    return pandas.DataFrame(rows).reindex(columns=columns)


def _row_of(sweep: SweepRun, result: TrialResult, trial: Trial) -> dict[str, Any]:
    """What a trial reported; of one whose process died, why. Raises what ends the whole sweep."""
    if result.error is None:
        return result.row
    for cause in chain(result.error):
        if isinstance(cause, NOT_THE_ROWS):
            raise cause
    reason = keep_reason(_failure_path(sweep, trial.name), result.error)
    return {"trial": trial.name, **trial.changes, FAILED: reason}


def _describe_row(row: Mapping[str, Any]) -> str:
    if row[FAILED]:
        return f"{row['trial']}: failed: {row[FAILED]}"
    return f"{row['trial']}: PSNR {row['psnr']:.4g}, FD-EffNet {row['fd_effnet']:.4g}"
