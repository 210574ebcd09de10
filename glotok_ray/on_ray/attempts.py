"""Attempts at a training run: restarts from the newest checkpoint, within a budget per time window, each one told.

Read next: glotok_ray/on_ray/failures.py
"""

import contextlib
import logging
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ray.exceptions import RayError
from ray.train.v2.api.exceptions import TrainingFailedError

from glotok_ray.on_ray.failures import Failure, chain, explain, one_line
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import local_twin, remove_tree
from glotok_ray.storage.retries import StorageError, patiently
from glotok_ray.training import checkpoint
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER
from glotok_ray.training.heartbeat import Attempt
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.plan import LOG_FOLDER, RAY_FOLDER, RunPlan
from glotok_ray.training.stalls import beats_of

logger = logging.getLogger(__name__)

_STATE_FILE = "attempt.json"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
# Restarts in a row that come no further: long start-ups must not make an endless loop that the window never sees.
_MOST_IN_PLACE = 3
# A failed attempt and storage that is away often come together.
_STORAGE_MINUTES = 10.0
# Restarts that are handed to the workers, which tell those that metrics.jsonl does not hold.
_RESTARTS_KEPT = 20


class RunFailed(RuntimeError):  # noqa: N818 - what failed is the run
    """A training run that ended before its last step; one line with the cause, the log and the remedy."""


class RestartBudget:
    """At most `most` restarts within any `window_minutes`."""

    def __init__(
        self, most: int, window_minutes: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._window_s, self._clock = most, 60 * window_minutes, clock
        self._times: deque[float] = deque()

    @property
    def spent(self) -> int:
        """Restarts within the window that ends now."""
        while self._times and self._clock() - self._times[0] >= self._window_s:
            self._times.popleft()
        return len(self._times)

    def spend(self) -> bool:
        """Take one restart; False when none is left."""
        if self.spent >= self._most:
            return False
        self._times.append(self._clock())
        return True


class Standing(NamedTuple):
    """How far a run has come."""

    reached: int
    """Optimizer steps after which it was last seen; later ones may have been done."""
    saved: int
    """Step of the newest checkpoint, 0 without one."""


class Attempts:
    """All attempts of one driver at a run, and what the ones before it left in the run's folder."""

    def __init__(
        self, plan: RunPlan, *, fault: str = "", sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._folder, self._scaling = plan.folder, plan.scaling
        self._fault, self._sleep = fault, sleep
        self._budget = RestartBudget(plan.scaling.max_failures, plan.scaling.failure_window_minutes)
        self._number, self._in_place = 0, 0
        self._restarts: list[dict[str, Any]] = []
        self._take_over()

    def run(self, start: Callable[[Attempt], Any]) -> None:
        """Call `start` with one attempt after another until it returns.

        Raises RunFailed when the budget is spent, three restarts in a row come no further, or storage is gone for
        good; ArtefactError for errors that another attempt would meet again; FolderLostError.
        """
        best = self._standing()
        first = True
        while True:
            ownership.check_held()
            attempt = self._next()
            try:
                start(attempt)
            except (TrainingFailedError, RayError) as error:
                ownership.check_held()  # else this would be told in another job's folder
                standing = self._standing()
                further = standing.reached > best.reached or standing.saved > best.saved
                self._in_place = 0 if further or first else self._in_place + 1
                self._after(error, standing)
                best = Standing(max(best.reached, standing.reached), standing.saved)
                first = False
            else:
                self._write_state("done")
                self._remove_old_attempts()
                return

    def _after(self, error: BaseException, standing: Standing) -> None:
        """Raise what the user is to see, or note the restart and pause."""
        failure = explain(error, self._folder, self._number)
        log = self._write_log(error, failure)
        if (
            failure.final is not None
            or self._in_place >= _MOST_IN_PLACE
            or not (failure.reclaimed or self._budget.spend())
        ):
            self._write_end(failure)
            raise self._ending(failure, standing, log) from error
        self._note_restart(failure.cause, standing.reached)
        if failure.reclaimed:
            logger.warning(
                "attempt %d ended at step %d: %s; it goes on with what is left",
                self._number,
                standing.reached,
                failure.cause,
            )
            self._sleep(_FIRST_PAUSE_S)
            return
        logger.warning(
            "attempt %d ended at step %d: %s; restart %d of %d within %g minutes, from the newest checkpoint "
            "(step %d); log: %s",
            self._number,
            standing.reached,
            failure.cause,
            self._budget.spent,
            self._scaling.max_failures,
            self._scaling.failure_window_minutes,
            standing.saved,
            log,
        )
        self._sleep(min(_FIRST_PAUSE_S * 2 ** (self._budget.spent - 1), _LONGEST_PAUSE_S))

    def _ending(self, failure: Failure, standing: Standing, log: Path) -> Exception:
        if failure.final is not None and not isinstance(failure.final, StorageError):
            return ArtefactError(f"{one_line(str(failure.final))} (log: {log})")
        saved = (
            f"the newest checkpoint is step {standing.saved}, start the same command again to go on"
        )
        if not standing.saved:
            saved = "there is no checkpoint yet, start the same command again to begin anew"
        scaling, spent = self._scaling, self._budget.spent
        what = f"after {spent} restarts within {scaling.failure_window_minutes:g} minutes, the last"
        if failure.final is not None or not scaling.max_failures:
            what = "without a restart,"
        elif self._in_place >= _MOST_IN_PLACE:
            what = f"after {_MOST_IN_PLACE} restarts in a row that came no further, the last"
        return RunFailed(
            f"training stopped {what} at step {standing.reached}: {failure.cause}; log: {log}; {saved}"
        )

    def _take_over(self) -> None:
        """Go on with the count of attempts, and tell the end of a driver that did not come to tell anything."""
        path = self._folder / LOG_FOLDER / _STATE_FILE
        if not path.is_file():
            return
        state = artefact.read_json(path)
        self._number, self._restarts = state["number"], state["restarts"]
        causes = {
            "running": "the driver ended",
            "failed": f"started again after the run had stopped: {state['cause']}",
        }
        if state["state"] in causes and beats_of(self._folder, self._number):
            self._note_restart(causes[state["state"]], self._standing().reached)

    def _next(self) -> Attempt:
        self._number += 1
        self._write_state("running")
        return Attempt(number=self._number, restarts=tuple(self._restarts), fault=self._fault)

    def _note_restart(self, cause: str, lost_step: int) -> None:
        restart = {"cause": cause, "attempt": self._number + 1, "lost_step": lost_step}
        self._restarts.append(restart | {"unix_s": int(time.time())})

    def _standing(self) -> Standing:
        return patiently(self._look, self._folder, minutes=_STORAGE_MINUTES)

    def _look(self) -> Standing:
        newest = checkpoint.newest_checkpoint(self._folder / CHECKPOINT_FOLDER, verify=False)
        saved = checkpoint.checkpoint_step(newest)
        seen = [beat.step for beat in beats_of(self._folder, self._number).values()]
        logged = last_metrics(self._folder)
        if max(seen, default=-1) < 0:
            return Standing(saved, saved)  # what is logged was done before this attempt
        return Standing(max(saved, *seen, logged["step"] if logged else 0), saved)

    def _write_state(
        self, state: str, cause: str = "", *, minutes: float = _STORAGE_MINUTES
    ) -> None:
        values = {"number": self._number, "state": state, "cause": cause}
        values["restarts"] = self._restarts[-_RESTARTS_KEPT:]
        path = self._folder / LOG_FOLDER / _STATE_FILE
        self._patiently_write(path, lambda: artefact.write_json(path, values), minutes)

    def _write_end(self, failure: Failure) -> None:
        """Note why the run stops, as far as storage takes it: the cause must come out where it does not."""
        path = self._folder / LOG_FOLDER / _STATE_FILE
        try:
            self._write_state("failed", failure.cause, minutes=_patience(failure))
        except StorageError as error:
            logger.warning("%s does not tell why the run stopped: %s", path, error)

    def _write_log(self, error: BaseException, failure: Failure) -> Path:
        """Append the errors of an attempt, with the workers' notes, to the folder's log; returns its place."""
        path = self._folder / artefact.LOG_FILE
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        parts = [f"\n{stamp} attempt {self._number} failed: {failure.cause}\n"]
        for item in chain(error):
            parts += ["\n", *traceback.format_exception(item, chain=False)]
        text = "".join(parts)
        try:
            self._patiently_write(path, lambda: _append(path, text), _patience(failure))
        except StorageError:
            options = {"prefix": f"glotok-{self._folder.name}-", "suffix": ".log", "delete": False}
            with tempfile.NamedTemporaryFile("w", **options) as stream:
                stream.write(text)
            return Path(stream.name)
        return path

    def _patiently_write(self, path: Path, action: Callable[[], Any], minutes: float) -> None:
        patiently(action, path, minutes=minutes, doing="writing", sleep=self._sleep)

    def _remove_old_attempts(self) -> None:
        """What Ray Train kept of earlier attempts; nothing of ours lies there."""
        for path in local_twin(self._folder / RAY_FOLDER).glob("attempt-*"):
            if not path.name.startswith(_name_prefix(self._number)):
                remove_tree(path, ignore_errors=True)


def _append(path: Path, text: str) -> None:
    """Add to the end of a file, or leave it as it was, since what fails is tried again."""
    with path.open("a") as stream:
        start = stream.tell()
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                stream.truncate(start)
            raise


def _patience(failure: Failure) -> float:
    """Minutes to try to write of a failure; where storage is the cause, a worker has been patient already."""
    return 0.0 if isinstance(failure.final, StorageError) else _STORAGE_MINUTES


def attempt_name(number: int) -> str:
    """Ray Train's name of an attempt, unique in the run's folder: under a known one it would silently resume."""
    return f"{_name_prefix(number)}{int(time.time())}"


def _name_prefix(number: int) -> str:
    return f"attempt-{number:04d}-"
