"""How long steps take and what part of that the device computes: what is logged under time/.

Rank 0's clock; the workers meet once per step, so the others' steps take as long. Read next:
glotok_ray/training/operations.py
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

Item = TypeVar("Item")

WARMUP_STEPS = 5
"""First steps of a process, which are not timed: in them kernels are chosen or compiled and buffers grow."""


class Utilization(NamedTuple):
    """What one device has to compute, and can."""

    operations: Callable[[int], float]
    """Floating-point operations of one worker in an optimizer step, by the number of the step."""
    peak: float
    """Operations per second of the device, by its data sheet."""

    def mfu(self, step: int, seconds: float) -> float:
        """Model FLOPs utilization: the share of the peak that a step of `seconds` used."""
        return self.operations(step) / (seconds * self.peak)


class StepTimes:
    """Times of the steps since the last line of the log."""

    def __init__(self, images_per_step: int, utilization: Utilization | None = None) -> None:
        """Without `utilization` no MFU is told."""
        self._images, self._utilization = images_per_step, utilization
        self._seen = 0
        self._began = time.monotonic()
        self._first_wait: float | None = None
        self._restart()

    def _restart(self) -> None:
        self._since, self._waited, self._steps = time.monotonic(), 0.0, 0
        self._seconds: list[float] = []

    def begin(self) -> None:
        """A step begins, with its wait for data."""
        self._began = time.monotonic()

    def waiting_for(self, action: Callable[[], Item]) -> Item:
        """The result of `action`, whose time counts as waiting for data."""
        started = time.monotonic()
        result = action()
        waited = time.monotonic() - started
        self._waited += waited
        if self._first_wait is None:
            self._first_wait = waited
        return result

    @property
    def first_wait_s(self) -> float | None:
        """Seconds that the process's first step waited for its rows; None before it."""
        return self._first_wait

    def end(self) -> None:
        """The step is done; evaluations and checkpoints come after it and do not count."""
        self._steps += 1
        self._seen += 1
        if self._seen > WARMUP_STEPS:
            self._seconds.append(time.monotonic() - self._began)

    def take(self, step: int) -> dict[str, float]:
        """Metrics of the time since the last call, up to the end of `step`; after the warm-up also the median and the
        95th percentile of the steps' times, and MFU at the median. None where there was no step.
        """
        if not self._steps:
            self._restart()
            return {}
        seconds = time.monotonic() - self._since
        values = {
            "images_per_s": self._steps * self._images / seconds,
            "data_share": self._waited / seconds,
        }
        if self._seconds:
            median = statistics.median(self._seconds)
            values |= {
                "step_median_s": median,
                "step_p95_s": float(np.percentile(self._seconds, 95)),
            }
            if self._utilization is not None:
                values["mfu"] = self._utilization.mfu(step, median)
        self._restart()
        return values
