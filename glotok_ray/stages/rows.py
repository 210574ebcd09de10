"""Rows of a sweep or of ablations: each a trial of Ray Tune, which ends with its metrics or the reason why it has none.

Every part of a row recognises finished work, so an interrupted command goes on. Read next: glotok_ray/on_ray/tune.py
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glotok_ray.on_ray import tune
from glotok_ray.on_ray.tune import TrialProcess, TrialResult
from glotok_ray.recipes.sweep_parts import evaluation_path
from glotok_ray.stages.failed_rows import FAILED, attempt, keep_reason, not_of_the_row
from glotok_ray.storage import artefact

_NAME = "name"


def failure_path(folder: Path, name: str) -> Path:
    """Where the reason of a row that failed is kept, beside the row's folders."""
    return folder / f"{name}_failure.json"


def run_rows(
    names: Sequence[str],
    measure: Callable[[str], Mapping[str, Any]],
    *,
    folder: Path,
    retry_failed: bool,
    max_concurrent: int,
    shown: Callable[[Mapping[str, Any]], str],
    shown_as: tuple[str, str],
    process: TrialProcess,
) -> dict[str, dict[str, Any]]:
    """The metrics that `measure(name)` returns for every row, by name; of a row that failed the reason, under FAILED.

    The rows' parts lie in `folder`, Ray Tune's files beside it. `shown` puts metrics into words for the progress line,
    which `shown_as` names, with its unit; `process` says where rows train, and how often one whose process dies is
    started again. Raises what says nothing of a row, such as storage that is away.
    """

    def run_row(name: str) -> dict[str, Any]:
        work = functools.partial(measure, name)
        found = attempt(failure_path(folder, name), work, retry=retry_failed)
        return {_NAME: name, FAILED: "", **found}

    def describe(row: Mapping[str, Any]) -> str:
        return f"{row[_NAME]}: " + (f"failed: {row[FAILED]}" if row[FAILED] else shown(row))

    results = tune.run_trials(
        names,
        run_row,
        folder=folder.parent,
        max_concurrent=max_concurrent,
        describe=describe,
        shown_as=shown_as,
        finished=[name for name in names if _is_finished(folder, name, retry_failed)],
        process=process,
    )
    return {result.name: _row_of(folder, result) for result in results}


def _is_finished(folder: Path, name: str, retry_failed: bool) -> bool:
    failed = failure_path(folder, name).is_file() and not retry_failed
    return failed or artefact.is_finished(evaluation_path(folder, name))


def _row_of(folder: Path, result: TrialResult) -> dict[str, Any]:
    """What a trial reported; of one whose process died, why. Raises what ends the whole run."""
    if result.error is None:
        return {name: value for name, value in result.row.items() if name != _NAME}
    if found := not_of_the_row(result.error):
        raise found
    return {FAILED: keep_reason(failure_path(folder, result.name), result.error)}
