"""Trials under Ray Tune: a function of a trial's name, run for every name, each result a row.

Read next: glotok_ray/stages/sweep_tokenizer.py
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray.tune

from glotok_ray import faults
from glotok_ray.on_ray import cluster
from glotok_ray.progress import ProgressLine

TUNE_FOLDER = "tune"
"""Ray Tune's own files, in the folder of a sweep."""


class TrialResult(NamedTuple):
    """What came of a trial: the row that its function returned, or the error that its process died of."""

    name: str
    row: dict[str, Any]
    error: BaseException | None


def run_trials(
    names: Sequence[str],
    function: Callable[[str], Mapping[str, Any]],
    *,
    folder: Path,
    max_concurrent: int,
    describe: Callable[[Mapping[str, Any]], str],
) -> Iterator[TrialResult]:
    """Call `function(name)` for every name, each in a trial of its own; results in the order of the names.

    Ray Tune keeps its files in `folder`; `describe` puts a row into words for the progress line. Raises
    KeyboardInterrupt when trials were interrupted.
    """
    cluster.connect()

    def trainable(space: dict[str, Any]) -> None:
        # Under one key: Ray Tune adds metrics of its own beside what is reported.
        ray.tune.report({"row": dict(function(space["trial"]))})

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    tuner = ray.tune.Tuner(
        # The driver of a trial only waits for its workers: a whole CPU would starve them on a small machine.
        ray.tune.with_resources(trainable, {"CPU": 0.01}),
        param_space={"trial": ray.tune.grid_search(list(names))},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=max_concurrent),
        run_config=ray.tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(folder),
            verbose=0,
            callbacks=[_ShownTrials(len(names), describe)],
        ),
    )
    faults.boundary("unit", 0)
    results = tuner.fit()
    for place in range(len(results)):
        yield trial_result(results[place])


def trial_result(result: Any) -> TrialResult:
    """What Ray Tune tells of a trial; raises KeyboardInterrupt for one that neither failed nor reported.

    After Ctrl-C Ray Tune returns as if all were done.
    """
    name = result.config["trial"]
    if result.error is not None:
        return TrialResult(name, {}, result.error)
    if "row" not in (result.metrics or {}):
        raise KeyboardInterrupt
    return TrialResult(name, result.metrics["row"], None)


class _ShownTrials(ray.tune.Callback):
    """A line for every trial that ends, with the time that the rest will take."""

    def __init__(self, number: int, describe: Callable[[Mapping[str, Any]], str]) -> None:
        self._line = ProgressLine("sweep", number, "trials", interval_s=0.0)
        self._describe = describe
        self._done = 0
        self._line.update(0)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune in the driver."""
        self._done += 1
        faults.boundary("unit", self._done)
        self._line.update(self._done, self._describe(trial.last_result["row"]))
