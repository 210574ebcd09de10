"""Trials under Ray Tune: a function of a trial's name, run for every name, each result a row.

Read next: glotok_ray/stages/sweep_tokenizer.py
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray.tune

from glotok_ray import faults
from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.on_ray import cluster
from glotok_ray.progress import ProgressLine
from glotok_ray.storage.places import local_twin

TUNE_FOLDER = "tune"
"""Ray Tune's own files, in the folder of a sweep; of one in a store in the driver's temporary folder, since nothing is
read of them: what trials found lies in files of ours.
"""


class TrialResult(NamedTuple):
    """What came of a trial: the row that its function returned, or the error that its process died of."""

    name: str
    row: dict[str, Any]
    error: BaseException | None


class TrialProcess(NamedTuple):
    """The process of a trial."""

    resources: Mapping[str, float]
    """What it asks for (`driver_resources`)."""
    restarts: int = 0
    """Times that it is started again where it died, or raised."""


HEAD_NODE = "node:__internal_head__"
"""A resource that Ray gives to the head of every cluster: on demand in all of ours, alive as long as the cluster."""
_SHARE = 0.001


def driver_resources(run: TokenizerRun | GeneratorRun | None = None) -> dict[str, float]:
    """What the process of a trial asks for: a place on the head node, where no spot instance takes it away. It only
    waits for its workers, so it asks for no CPU, of which the head of a cluster may offer none. Where the run trains in
    the trial's own process (`launcher = "local"`), it asks for a worker's share of any node instead.
    """
    if run is not None and run.launcher == "local":
        scaling = run.scaling
        return {"CPU": scaling.cpus_per_worker, "GPU": float(scaling.use_gpu)}
    return {"CPU": 0, HEAD_NODE: _SHARE}


def connect() -> None:
    """Connect to a cluster that can run trials; raises RuntimeError when its State API does not answer."""
    from glotok_ray.on_ray.preflight import (
        check_state_api,
    )  # it knows cluster files too, which takes a while

    cluster.connect(state_api=True)
    check_state_api()
    # Progress is told by our own lines.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


def run_trials(
    names: Sequence[str],
    function: Callable[[str], Mapping[str, Any]],
    *,
    folder: Path,
    max_concurrent: int,
    describe: Callable[[Mapping[str, Any]], str],
    shown_as: tuple[str, str] = ("sweep", "trials"),
    finished: Collection[str] = (),
    process: TrialProcess | None = None,
) -> Iterator[TrialResult]:
    """Call `function(name)` for every name, each in a trial of its own; results in the order of the names.

    Ray Tune keeps its files in `folder`; `describe` puts a row into words for the progress line, which `shown_as`
    names, with its unit. Those in `finished` were so before, and take no time. `process` says where trials run. Raises
    KeyboardInterrupt when trials were interrupted, and RuntimeError, before any trial, when the cluster cannot run
    them.
    """
    connect()

    def trainable(space: dict[str, Any]) -> None:
        # Under one key: Ray Tune adds metrics of its own beside what is reported.
        ray.tune.report({"row": dict(function(space["trial"]))})

    stage, unit = shown_as
    process = process or TrialProcess(driver_resources())
    line = ProgressLine(stage, len(names), unit, interval_s=0.0)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, dict(process.resources)),
        param_space={"trial": ray.tune.grid_search(list(names))},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=max_concurrent),
        run_config=ray.tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(local_twin(folder)),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=process.restarts),
            callbacks=[_ShownTrials(line, describe, set(finished))],
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

    def __init__(
        self,
        line: ProgressLine,
        describe: Callable[[Mapping[str, Any]], str],
        finished: set[str],
    ) -> None:
        self._line, self._describe, self._finished = line, describe, finished
        self._ended, self._done = 0, len(finished)
        # What was finished before takes no time now, and must not shorten the time left.
        self._line.update(self._done)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune in the driver."""
        self._ended += 1
        faults.boundary("unit", self._ended)
        if trial.config["trial"] not in self._finished:
            self._done += 1
            self._line.update(self._done, self._describe(trial.last_result["row"]))
