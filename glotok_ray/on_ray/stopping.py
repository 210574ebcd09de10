"""Which trials of a sweep Ray Tune's schedulers stop early, across restarts of trials and of the sweep itself.

The policy (ASHA, the median) knows trials by their names and not by Tune's ids, so that what an earlier process had
reported counts, and a trial that is taken up again is judged once per step. Read next: glotok_ray/on_ray/search.py
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from glotok_ray.config.sweeps import SweepRun
from glotok_ray.training.trials import STEP, TrialRecord

NAME = "trial"
"""Key of a trial's name in what Tune knows of it."""
TIME = "unix_s"
"""Key of a report's time."""
_VALUE = "value"


def policy_of(config: SweepRun) -> TrialScheduler:
    """The scheduler that the config names; values are losses, so that lower is better."""
    if config.scheduler == "asha":
        return ASHAScheduler(
            time_attr=STEP,
            metric=_VALUE,
            mode="min",
            max_t=config.max_steps,
            grace_period=config.first_rung,
            reduction_factor=config.reduction_factor,
        )
    if config.scheduler == "median":
        return MedianStoppingRule(
            time_attr=STEP,
            metric=_VALUE,
            mode="min",
            grace_period=config.first_rung,
            min_samples_required=config.min_trials_for_median,
        )
    return FIFOScheduler()


class StoppedTrials(FIFOScheduler):
    """Trials run in the order of their suggestion, and end when the policy says so."""

    def __init__(self, config: SweepRun) -> None:
        super().__init__()
        self._config, self._policy = config, policy_of(config)
        self._known: dict[str, Any] = {}
        self._answers: dict[tuple[str, int], str] = {}
        self._gone_on: set[str] = set()
        self.stopped: set[str] = set()
        """Names of those that the policy ended before the last step."""

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Tell the policy what an earlier process had reported, in the order of time."""
        found = [(report, record.trial.name) for record in records for report in record.reports]
        for report, name in sorted(found, key=lambda item: item[0].get(TIME, 0)):
            self.judge(name, report)

    def judge(self, name: str, report: Mapping[str, Any]) -> str:
        """Whether a trial goes on after this report; the same answer whenever it is asked."""
        step = report.get(STEP)
        if step is None:
            return TrialScheduler.CONTINUE
        if (name, step) not in self._answers:
            answer = self._answer(name, report, step)
            self._answers[name, step] = answer
            if answer == TrialScheduler.STOP and step < self._config.max_steps:
                self.stopped.add(name)
        return self._answers[name, step]

    def _answer(self, name: str, report: Mapping[str, Any], step: int) -> str:
        if step >= self._config.max_steps and self._config.scheduler == "none":
            return TrialScheduler.CONTINUE
        if name in self.stopped:
            # In truth it went on: of reports at about one time the policy saw another first. It is asked no more.
            self.stopped.discard(name)
            self._gone_on.add(name)
        if name in self._gone_on:
            return TrialScheduler.CONTINUE
        trial: Any = self._known.get(name)
        if trial is None:
            trial = self._known[name] = _Known(name)
            self._policy.on_trial_add(_NO_CONTROLLER, trial)
        value = report.get(self._config.judged_by)
        # What was not measured, such as the PSNR of a broken image, is worse than all that was.
        loss = math.nan if value is None else float(value)
        if self._config.higher_is_better:
            loss = -loss
        if math.isnan(loss):
            loss = math.inf
        return self._policy.on_trial_result(_NO_CONTROLLER, trial, {STEP: step, _VALUE: loss})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Ray Tune at every report."""
        return self.judge(trial.config[NAME], result)


class _Known:
    """What a policy knows of a trial."""

    def __init__(self, name: str) -> None:
        self.trial_id = name


class _NoController:
    """Tune's controller as the policies see it. No trial waits, so the median pauses none: it would start again."""

    def get_live_trials(self) -> list[Any]:
        """None."""
        return []


_NO_CONTROLLER: Any = _NoController()
