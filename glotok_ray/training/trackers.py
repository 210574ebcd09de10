"""Trackers that a run's metrics are sent to by rank 0, each in a thread of its own: none can stop or end a training.

Read next: glotok_ray/training/mlflow_tracker.py, glotok_ray/training/wandb_tracker.py
"""

import contextlib
import logging
import math
import os
import queue
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glotok_ray.config.tracking import TrackingConfig
from glotok_ray.storage.places import is_remote
from glotok_ray.storage.retries import StorageError
from glotok_ray.training.metrics_file import metric_lines
from glotok_ray.training.mlflow_tracker import MLflowTracker, check_address
from glotok_ray.training.tracked_run import Tracker, tracked_run
from glotok_ray.training.wandb_tracker import WandbTracker, check_key

logger = logging.getLogger(__name__)

CARRIED_VARIABLES = ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_ENTITY")
"""What workers take from the environment of the job where theirs has none. No key is among them: a node has its own."""
# Lines that wait for a service that is away; more are dropped.
_MOST_WAITING = 10_000
# For all that is on its way at the end, and after an error.
_FINISH_S, _FAILED_S = 60.0, 30.0


def check_trackers(config: TrackingConfig, folder: Path) -> None:
    """Raise ValueError for a tracker whose package, key or address is missing on this machine."""
    for name in config.trackers:
        if find_spec(name) is None:
            raise ValueError(
                f"tracking.trackers = {name!r}: the package {name} is not installed; pip install '.[{name}]' here and "
                "on every node, or leave it out"
            )
        if name == "mlflow":
            check_address(is_remote(folder))
        else:
            check_key()


def carried_environment() -> dict[str, str]:
    """The settings of trackers in this process's environment that its workers need too."""
    return {name: os.environ[name] for name in CARRIED_VARIABLES if name in os.environ}


class Trackers:
    """All trackers of a run, on rank 0: every call returns at once, but the last."""

    def __init__(self, config: TrackingConfig, folder: Path, *, rows_file: str = "") -> None:
        """Lines of `rows_file` in the run's folder, which another process appends, are sent along."""
        self._senders = [
            _Sender(name, config, folder, rows_file=rows_file) for name in config.trackers
        ]

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send one line of metrics."""
        for sender in self._senders:
            sender.send(step, values)

    def finish(self, values: Mapping[str, Any], *, failed: bool = False) -> None:
        """Send the newest value of every metric, and wait for all that is on its way: up to a minute, or 30 s for a
        training that failed.
        """
        for sender in self._senders:
            sender.end(values, failed=failed)
        for sender in self._senders:
            sender.wait(_FAILED_S if failed else _FINISH_S)


class _Sender:
    """One tracker and the thread that talks to it."""

    def __init__(self, name: str, config: TrackingConfig, folder: Path, *, rows_file: str) -> None:
        self._name, self._config, self._folder = name, config, folder
        self._rows = _EvaluatedRows(folder / rows_file) if rows_file else None
        self._waiting: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(_MOST_WAITING)
        # `failed`: of a training whose end is never told to the tracker.
        self._broken, self._failed = False, True
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def send(self, step: int, values: Mapping[str, Any]) -> None:
        numbers = _numbers(values)
        self._put(lambda tracker: tracker.log(step, numbers))

    def end(self, values: Mapping[str, Any], *, failed: bool) -> None:
        numbers, self._failed = _numbers(values), failed
        self._put(lambda tracker: tracker.finish(numbers, failed=failed))
        self._put(None)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._tell(f"it has not taken everything within {seconds:g} s")

    def _put(self, call: Callable[[Tracker], None] | None) -> None:
        if self._broken:
            return
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            self._tell(f"it is {_MOST_WAITING} lines behind")

    def _run(self) -> None:
        tracker = None
        try:
            tracker = _open(self._name, self._config, self._folder)
            while (call := self._waiting.get()) is not None:
                for step, values in self._new_rows():
                    tracker.log(step, values)
                call(tracker)
        # Whatever a service raises, the training goes on.
        except Exception as error:
            self._tell(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            # Whoever looks must not see it run on, and what it holds must not be lost with the thread.
            if tracker is not None:
                with contextlib.suppress(Exception):
                    tracker.finish({}, failed=self._failed)

    def _new_rows(self) -> list[tuple[int, dict[str, float]]]:
        # The run's own storage may be away for a moment: they come with a later line.
        with contextlib.suppress(OSError, StorageError):
            return self._rows.new() if self._rows else []
        return []

    def _tell(self, why: str) -> None:
        if not self._broken:
            self._broken = True
            logger.warning(
                "tracker %s: %s; the training goes on without it, and metrics.jsonl holds everything",
                self._name,
                why,
            )


class _EvaluatedRows:
    """Rows of evaluated checkpoints that were not sent by this process yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._size, self._sent = path, -1, 0

    def new(self) -> list[tuple[int, dict[str, float]]]:
        """Step and metrics of each."""
        if not self._path.is_file() or self._path.stat().st_size == self._size:
            return []
        size = self._path.stat().st_size
        rows = list(metric_lines(self._path))
        # Only now: what cannot be read is asked for again.
        self._size = size
        fresh, self._sent = rows[self._sent :], len(rows)
        return [(row["step"], _row_numbers(row)) for row in fresh if "metrics" in row]


def _row_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    values = {name: entry.get("value") for name, entry in row["metrics"].items()}
    return {f"checkpoint/{name}": value for name, value in _numbers(values).items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite: no service draws others, and some refuse them."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _open(name: str, config: TrackingConfig, folder: Path) -> Tracker:
    run = tracked_run(folder, config.project)
    return MLflowTracker(run) if name == "mlflow" else WandbTracker(run)
