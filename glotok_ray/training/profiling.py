"""A trace of a few steps for `schedule.profile_steps`, by torch's profiler: chrome://tracing and Perfetto open it.

Read next: glotok_ray/training/trainer.py
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Self

import torch

from glotok_ray.storage.places import writing
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.step_times import WARMUP_STEPS
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

PROFILE_FOLDER = "profile"
"""In a run's folder."""
DATA, FORWARD, BACKWARD, AGREEMENT = "data", "forward", "backward", "agreement"
OPTIMIZER, AVERAGE, METRICS = "optimizer", "average", "metrics"
PARTS = (DATA, FORWARD, BACKWARD, AGREEMENT, OPTIMIZER, AVERAGE, METRICS)
"""Ranges of a step in the trace: the wait for rows, the passes (the backward one with the reduction of gradients), what
workers agree on, clipping and update, the moving average, and the log. A tokenizer's step, whose passes are many, marks
the first and the last. They cost microseconds where nothing is traced.
"""
TRACE_FILE = "trace.json.gz"
_RECORDING = (
    torch.profiler.ProfilerAction.RECORD,
    torch.profiler.ProfilerAction.RECORD_AND_SAVE,
)


def part(name: str) -> torch.profiler.record_function:
    """A range of the trace, one of `PARTS`."""
    return torch.profiler.record_function(name)


class StepProfiler:
    """Traces the first `schedule.profile_steps` steps after the warm-up, on rank 0; other ranks and runs without such
    steps pay nothing.
    """

    def __init__(self, plan: RunPlan, worker: Worker) -> None:
        self._path = plan.folder / PROFILE_FOLDER / TRACE_FILE
        self._profiler: torch.profiler.profile | None = None
        if plan.schedule.profile_steps and worker.rank == 0:
            self._profiler = torch.profiler.profile(
                activities=_activities(worker.device),
                # The profiler's own warm-up is the last step of ours.
                schedule=torch.profiler.schedule(
                    skip_first=WARMUP_STEPS - 1,
                    wait=0,
                    warmup=1,
                    active=plan.schedule.profile_steps,
                    repeat=1,
                ),
                on_trace_ready=self._write,
            )
        self._traced = 0

    def __enter__(self) -> Self:
        if self._profiler is not None:
            self._profiler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._profiler is None:
            return
        # A run that ends before its last traced step leaves a trace of those that it came to.
        self._profiler.stop()
        if not self._traced:
            logger.warning(
                "schedule.profile_steps: no trace, as the run did not come to step %d of this start; the first %d are "
                "not traced",
                WARMUP_STEPS + 1,
                WARMUP_STEPS,
            )

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """An optimizer step, under the name "train step NUMBER"."""
        if self._profiler is None:
            yield
            return
        recording = self._profiler.current_action in _RECORDING
        with torch.profiler.record_function(f"train step {number}"):
            yield
        self._traced += recording
        self._profiler.step()

    def _write(self, profiler: Any) -> None:
        if not self._traced:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with writing(self._path) as local:
                profiler.export_chrome_trace(str(local))
        except OSError as error:
            logger.warning("the trace of schedule.profile_steps is lost: %s", error)
            return
        logger.info("trace of the profiled steps: %s", self._path)


def _activities(device: torch.device) -> list[torch.profiler.ProfilerActivity]:
    activity = torch.profiler.ProfilerActivity
    return [activity.CPU, *([activity.CUDA] if device.type == "cuda" else [])]
