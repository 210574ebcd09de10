"""A search under Ray Tune: suggestions become trials, whose reports go to the scheduler and whose ends to the search.

What a trial is and what it found lies in files of its own, not in Tune's: a sweep that was killed goes on by them.
Read next: glotok_ray/on_ray/stopping.py
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune.search import Searcher

from glotok_ray import faults
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.on_ray import tune
from glotok_ray.on_ray.stopping import NAME, TIME, StoppedTrials
from glotok_ray.progress import ProgressLine
from glotok_ray.storage.places import local_twin
from glotok_ray.training.suggestions import Suggestions
from glotok_ray.training.trials import STEP, Status, TrialFiles, TrialRecord

logger = logging.getLogger(__name__)

FAILED = "failed"
"""Key of the reason in the last report of a trial that failed."""
Reports = Iterator[Mapping[str, Any]]


def run_search(
    config: SweepRun,
    files: TrialFiles,
    function: Callable[[str], Reports],
    *,
    folder: Path,
    describe: Callable[[TrialRecord], str],
    ends_all: Callable[[BaseException], BaseException | None],
    keep_reason: Callable[[str, BaseException], str],
) -> None:
    """Run all trials that have not ended yet, until as many have as the config says; `files` tell what they are and
    receive how they end.

    `function(name)` runs in a trial's process and gives its evaluations, each after it is noted in `files`. A trial
    whose process dies is started again, `trial_restarts` times; then `keep_reason` notes why. Tune keeps its files in
    `folder`. Raises what `ends_all` finds in an error that is no trial's own, KeyboardInterrupt when trials were
    interrupted, and RuntimeError, before any trial, when the cluster cannot run them.
    """
    records = files.records()
    unfinished = [record.trial.name for record in records if not record.status]
    suggestions, stopping = Suggestions(config), StoppedTrials(config)
    suggestions.replay(records)
    stopping.replay(records)
    done = len(records) - len(unfinished)
    missing = config.num_trials - done
    if missing <= 0:
        return
    # More have begun where an earlier command wanted more; those stay as they are.
    begun = unfinished[:missing]
    tune.connect()

    def trainable(space: dict[str, Any]) -> None:
        for report in function(space[NAME]):
            ray.tune.report(dict(report))

    # Errors are noted with their trials; Tune's own tracebacks would bury our lines.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # A trial that failed reports its reason, and no metric.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    shown = _Shown(config, files, describe, done)
    asked = _Asked(suggestions, files, begun, stopping, config)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, tune.driver_resources(config.tokenizer)),
        tune_config=ray.tune.TuneConfig(
            search_alg=asked,
            scheduler=stopping,
            num_samples=missing,
            max_concurrent_trials=config.max_concurrent_trials,
        ),
        run_config=ray.tune.RunConfig(
            name=tune.TUNE_FOLDER,
            storage_path=str(local_twin(folder)),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=config.trial_restarts),
            callbacks=[shown],
        ),
    )
    faults.boundary("unit", 0)
    results = tuner.fit()
    _note_errors([results[place] for place in range(len(results))], files, ends_all, keep_reason)
    wanted = {*begun, *asked.names.values()}
    if any(not record.status for record in files.records() if record.trial.name in wanted):
        # After Ctrl-C Ray Tune returns as if all were done.
        raise KeyboardInterrupt


def _note_errors(
    results: Iterable[Any],
    files: TrialFiles,
    ends_all: Callable[[BaseException], BaseException | None],
    keep_reason: Callable[[str, BaseException], str],
) -> None:
    for result in results:
        if result.error is None:
            continue
        if found := ends_all(result.error):
            raise found
        name = result.config[NAME]
        files.ended(name, "failed", keep_reason(name, result.error))


class _Asked(Searcher):
    """Ray Tune's side of the suggestions, in the driver."""

    def __init__(
        self,
        suggestions: Suggestions,
        files: TrialFiles,
        begun: Iterable[str],
        stopping: StoppedTrials,
        config: SweepRun,
    ) -> None:
        super().__init__(metric=config.judged_by, mode="max" if config.higher_is_better else "min")
        self._suggestions, self._files, self._begun = suggestions, files, list(begun)
        self._stopping, self._last_step = stopping, config.max_steps
        self.names: dict[str, str] = {}
        """Of trials, by the ids that Tune gave them."""

    def suggest(self, trial_id: str) -> Any:
        """Those that an earlier process had begun come first."""
        if self._begun:
            name = self._begun.pop(0)
        else:
            found = self._suggestions.ask()
            if found is None:
                return Searcher.FINISHED
            trial, choices = found
            self._files.suggested(trial, choices)
            name = trial.name
        self.names[trial_id] = name
        return {NAME: name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The trial's own files hold them."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note the end, unless the trial was interrupted; that of a dead process is noted with its error later."""
        name = self.names[trial_id]
        reports = self._files.reports(name)
        status, reason = self._end(name, reports, result or {})
        if error:
            self._suggestions.tell(name, reports, "failed")
        elif status:
            self._suggestions.tell(name, reports, status)
            self._files.ended(name, status, reason)

    def _end(
        self, name: str, reports: list[dict[str, Any]], result: Mapping[str, Any]
    ) -> tuple[Status, str]:
        if result.get(FAILED):
            return "failed", str(result[FAILED])
        if reports and reports[-1][STEP] >= self._last_step:
            return "finished", ""
        return ("stopped", "") if name in self._stopping.stopped else ("", "")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is needed to go on lies in the trials' files."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for `save`."""


class _Shown(ray.tune.Callback):
    """A line for every trial that ends, with the time that the rest will take."""

    def __init__(
        self,
        config: SweepRun,
        files: TrialFiles,
        describe: Callable[[TrialRecord], str],
        done: int,
    ) -> None:
        self._files, self._describe, self._done = files, describe, done
        self._line = ProgressLine("sweep", config.num_trials, "trials", interval_s=0.0)
        self._line.update(done)
        self._ended = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune in the driver."""
        self._tell(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune in the driver, for one that is started again."""
        logger.warning("%s: its process died; it is started again and goes on", trial.config[NAME])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune in the driver, for one that is not started again."""
        self._tell(trial)

    def _tell(self, trial: Any) -> None:
        self._ended += 1
        faults.boundary("unit", self._ended)
        self._done += 1
        self._line.update(self._done, self._describe(self._files.record(trial.config[NAME])))


def stamped(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report with its time, by which reports of several trials are put in order."""
    return {**report, TIME: time.time()}
