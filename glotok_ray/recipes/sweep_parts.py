"""The runs that sweeps and ablations are made of: of each trial, row, guidance scale or
set of samples its parts.

Read next: glotok_ray/stages/ablations.py, glotok_ray/stages/sweep_tokenizer.py
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.jobs import AnySampleRun, XARSampleRun
from glotok_ray.config.overrides import absolute_path, override
from glotok_ray.config.rules import require
from glotok_ray.config.runs import TokenizerRun, XARRun
from glotok_ray.config.sweeps import (
    AUTOMATIC,
    AblationRun,
    AnyGuidanceRun,
    GeneratorAblationRun,
    SweepRun,
    TokenizerAblationRun,
)
from glotok_ray.recipes import generator_ablations, tokenizer_rows
from glotok_ray.storage.places import to_path

GeneratorParts = tuple[XARRun, XARSampleRun, EvaluateRun]
"""Training, sampling and evaluation of one row of xAR's ablations."""
VALUES_FOLDER, STATISTICS_FOLDER = "values", "statistics"
"""Of a guidance sweep and of a comparison: what each value has, and what is kept of real images."""
_HASH_DIGITS = 8
_NEEDED = {
    "samples_fid_reference": ("inception_path", "reference_path"),
    "samples_fid": ("inception_path",),
    "samples_fid_training": ("inception_path", "training_path"),
    "samples_sfid": ("inception_path",),
    "samples_inception_score": ("inception_path",),
    "samples_fd_dinov2": ("dinov2_path",),
    "samples_fd_effnet_training": ("training_path",),
}
"""Paths of an evaluation without which it does not measure a metric."""


def chosen_rows(config: AblationRun) -> tuple[str, ...]:
    """The names of this run's rows; raises ValueError for an unknown or repeated one, with the known ones."""
    is_tokenizer = isinstance(config, TokenizerAblationRun)
    known = tuple(tokenizer_rows.ROWS if is_tokenizer else generator_ablations.ROWS)
    rows = config.rows or known
    if not set(rows) <= set(known) or len(set(rows)) < len(rows):
        raise ValueError(
            f"rows = {', '.join(rows)}: must be different ones of {', '.join(known)}; correct them"
        )
    return rows


def evaluation_path(folder: Path, name: str) -> Path:
    """The folder of a trial's or row's evaluation, the last of its parts."""
    return folder / f"{name}_evaluation"


def generator_row(config: GeneratorAblationRun, folder: Path, row: str) -> GeneratorParts:
    """Training, sampling and evaluation of a row of xAR's ablations, each in a folder of its own below `folder`; an
    evaluation that measures a generator's loss measures the row's.
    """
    trained, samples = str(folder / row), str(folder / f"{row}_samples")
    measured = {"samples_path": samples, "output_path": str(evaluation_path(folder, row))}
    if config.evaluation.generator_path:
        measured["generator_path"] = trained
    training = generator_ablations.ROWS[row](config.generator)
    return (
        override(training, {"name": row, "output_path": str(folder)}),
        override(config.samples, {"generator_path": trained, "output_path": samples}),
        override(config.evaluation, measured),
    )


def tokenizer_row(config: TokenizerAblationRun, folder: Path, row: str) -> TokenizerRun:
    """The training of a row of a tokenizer's ablations, in a folder of its own below `folder`."""
    return _short(
        tokenizer_rows.ROWS[row](config.tokenizer), config.max_steps, folder, {"name": row}
    )


def trial(config: SweepRun, folder: Path, name: str, changes: dict[str, Any]) -> TokenizerRun:
    """The training of a trial, in a folder of its own below `folder`; `changes` have the dotted names of the command
    line.
    """
    return _short(config.tokenizer, config.max_steps, folder, {**changes, "name": name})


def finalist(
    config: SweepRun, folder: Path, name: str, changes: dict[str, Any], seed: int
) -> TokenizerRun:
    """The training of a trial's settings with another seed, in a folder of its own below `folder`."""
    return trial(config, folder, name, {**changes, "seed": seed})


def best(config: SweepRun, changes: dict[str, Any]) -> TokenizerRun:
    """The recipe that a sweep found: the base recipe, at its own length, with the changes of the best trial."""
    return override(config.tokenizer, {**changes, "name": f"{config.tokenizer.name}_best"})


def check_lengths(
    config: SweepRun | TokenizerAblationRun, trainings: Iterable[TokenizerRun], num_images: int
) -> None:
    """Raise ValueError where one of the trainings, on so many images, ends before max_steps: it would be told, and
    measured again, as of steps that it never makes.
    """
    for run in trainings:
        schedule = run.schedule
        steps = schedule.total_steps(schedule.steps_per_epoch(num_images))
        require(
            config.max_steps <= steps,
            "max_steps",
            config.max_steps,
            f"{run.name} ends at step {steps} (tokenizer.schedule.epochs = {schedule.epochs} and num_steps = "
            f"{schedule.num_steps} on {num_images} images); lower max_steps to {steps}, or raise them",
        )


def _short(run: TokenizerRun, steps: int, folder: Path, changes: dict[str, Any]) -> TokenizerRun:
    ended = {"output_path": str(folder), "schedule.stop_after_steps": steps}
    return override(run, {**changes, **ended})


# ---------------------------------------------------------------------------------------- guidance


class GuidanceValue(NamedTuple):
    """The sampling and the evaluation at one guidance scale."""

    samples: AnySampleRun
    evaluation: EvaluateRun


def guidance_value(config: AnyGuidanceRun, scale: float) -> GuidanceValue:
    """Sampling and evaluation at `scale`, each in a folder of its own; raises ValueError for a field that they cannot
    have.
    """
    top = to_path(config.output_path)
    name = f"guidance_{scale:g}"
    samples = str(top / VALUES_FOLDER / f"{name}_samples")
    evaluation = {
        "samples_path": samples,
        "output_path": str(top / VALUES_FOLDER / f"{name}_evaluation"),
        "statistics_path": config.evaluation.statistics_path or str(top / STATISTICS_FOLDER),
    }
    drawn = {"sampler.guidance_scale": scale, "output_path": samples}
    return GuidanceValue(override(config.samples, drawn), override(config.evaluation, evaluation))


def guidance_inputs(config: AnyGuidanceRun) -> list[str]:
    """The paths of the folders that all values read."""
    paths = (
        config.samples.generator_path,
        config.samples.tokenizer_path,
        config.evaluation.data_path,
        config.evaluation.training_path,
    )
    return [path for path in paths if path]


def chosen_metric(config: AnyGuidanceRun) -> str:
    """The metric that names the best value; raises ValueError for one that the evaluation does not measure."""
    evaluation = config.evaluation
    if config.best_by == AUTOMATIC:
        if not evaluation.inception_path:
            return "samples_fd_effnet"
        return "samples_fid_reference" if evaluation.reference_path else "samples_fid"
    for name in _NEEDED.get(config.best_by, ()):
        if not getattr(evaluation, name):
            raise ValueError(
                f"best_by = {config.best_by!r}: needs evaluation.{name}, without which it is not measured; give it, or "
                f"take best_by = {AUTOMATIC!r}"
            )
    return config.best_by


# ---------------------------------------------------------------------------------------- several sets of samples


def samples_evaluations(config: EvaluateRun) -> dict[str, EvaluateRun]:
    """The evaluation of each of samples_paths, by a short name that no other one has; its folder's name follows from
    the whole path, so that another call finds the same set there, whatever stands beside it.
    """
    top = to_path(config.output_path)
    names = short_names(config.samples_paths)
    alone = {"samples_paths": (), "tokenizer_path": "", "codes_path": "", "generator_path": ""}
    kept = config.statistics_path or str(top / STATISTICS_FOLDER)
    return {
        name: override(
            config,
            {
                **alone,
                "samples_path": path,
                "output_path": str(evaluation_path(top / VALUES_FOLDER, _set_name(path))),
                "statistics_path": kept,
            },
        )
        for name, path in zip(names, config.samples_paths, strict=True)
    }


def _set_name(path: str) -> str:
    """The last two parts of a path or address, and some digits of a hash of all of it, seen from the present folder."""
    whole = absolute_path("samples_paths", path, Path().absolute())
    place, digest = to_path(whole), hashlib.sha256(whole.encode()).hexdigest()
    return f"{place.parent.name}_{place.name}_{digest[:_HASH_DIGITS]}"


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path or address, with as many parts before it as tell all of them apart."""
    parts = [[part for part in path.split("/") if part] for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["_".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}_{own[-1]}" for number, own in enumerate(parts, 1)]
