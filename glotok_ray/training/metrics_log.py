"""A run's metrics, written by rank 0: a line of metrics.jsonl, TensorBoard's points and trackers' every few steps.

Read next: glotok_ray/training/step_times.py
"""

import collections
import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import writing_tree
from glotok_ray.storage.retries import patiently
from glotok_ray.training.evaluated_checkpoints import ROWS_FILE
from glotok_ray.training.metrics_file import EVENT, METRICS_FILE, metric_lines
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.rows_seen import RowsSeen
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.step_times import StepTimes, Utilization
from glotok_ray.training.trackers import Trackers
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

TENSORBOARD_FOLDER = "tensorboard"


def _file(rank: int) -> str:
    return f"log-{rank:04d}.pt"


class _OfAllWorkers(NamedTuple):
    means: list[float]
    """Of the terms."""
    peak_gib: float
    """The largest peak of memory."""
    broken: int
    """The sum of the broken rows that each has met."""


class MetricsLog:
    """Averages of the terms since the last line, in metrics.jsonl, TensorBoard and trackers, written by rank 0."""

    def __init__(
        self,
        plan: RunPlan,
        worker: Worker,
        first_step: int,
        seen: RowsSeen,
        utilization: Utilization | None = None,
    ) -> None:
        self._plan, self._worker, self._seen = plan, worker, seen
        self._path = plan.folder / METRICS_FILE
        self._sums: dict[str, Tensor] = {}
        # Terms that are there in some steps alone are averaged over those.
        self._counts: collections.Counter[str] = collections.Counter()
        self._steps = 0
        self._rate = 0.0
        self._told_first_batch, self._restarts = False, 0
        self.evaluated_step = first_step
        """The step of the last evaluation that what is saved now comes after."""
        self.times = StepTimes(plan.schedule.global_batch_size, utilization)
        self.latest: dict[str, Any] = {}
        self._points: Any = None
        # Of a run in an object store TensorBoard's files are sent at the end.
        self._files = contextlib.ExitStack()
        self._purge_step = first_step
        self._trackers: Trackers | None = None
        if worker.rank == 0:
            # A run that died after its last checkpoint repeats those steps; their lines would appear twice.
            self._keep_lines(lambda line: line["step"] <= first_step)
            self._trackers = Trackers(plan.tracking, plan.folder, rows_file=ROWS_FILE)

    def _patiently(self, write: Callable[[], None]) -> None:
        minutes = self._plan.scaling.storage_retry_minutes
        patiently(write, self._path, minutes=minutes, doing="writing")

    def _keep_lines(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the other lines from metrics.jsonl; those of events stay."""

        def rewrite() -> None:
            if self._path.is_file():
                kept = [line for line in metric_lines(self._path) if EVENT in line or is_kept(line)]
                with artefact.replacing(self._path) as temporary:
                    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

        self._patiently(rewrite)

    def add(self, step: int, terms: dict[str, Tensor], rate: float) -> None:
        """Take the terms of one step; every `log_every_steps` steps, write a line."""
        for name, value in terms.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1
        self._steps += 1
        self._rate = rate
        if (step + 1) % self._plan.schedule.log_every_steps == 0:
            self.flush(step)

    def snapshot(self, into: Snapshot) -> None:
        """Add what has come since the last line, so that the next one is the same after a restart."""
        state = {
            "sums": self._sums,
            "counts": dict(self._counts),
            "steps": self._steps,
            "rate": self._rate,
            "evaluated_step": self.evaluated_step,
        }
        into.add_state(_file(self._worker.rank), state)

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added; where other workers wrote it, each takes their mean."""
        names = sorted(path.name for path in folder.glob("log-*.pt"))
        if len(names) == self._worker.world_size:
            names = [_file(self._worker.rank)]
        states = [
            torch.load(at_hand(folder / name), weights_only=True, map_location=self._worker.device)
            for name in names
        ]
        first = states[0]
        self._sums = {
            name: torch.stack([state["sums"][name] for state in states]).mean(0)
            for name in first["sums"]
        }
        self._steps, self._counts = first["steps"], collections.Counter(first["counts"])
        # Older versions saved neither: what they went on with was the next step.
        self._rate = first.get("rate", self._rate)
        self.evaluated_step = first.get("evaluated_step", self.evaluated_step)

    def flush(self, step: int) -> None:
        """Write the averages since the last line."""
        if not self._steps:
            return
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name].reshape(()) for name in names])
        totals, peak, broken = self._exchanged(stacked)
        values = {
            f"train/{name}": total / self._counts[name]
            for name, total in zip(names, totals, strict=True)
        }
        values["train/learning_rate"] = self._rate
        values |= {f"time/{name}": value for name, value in self.times.take(step).items()}
        values["memory/peak_gib"] = peak
        values["run/restarts"] = self._restarts
        values |= self._data_facts(broken)
        self.write(step + 1, values)
        self._sums, self._steps = {}, 0
        self._counts.clear()

    def _data_facts(self, broken: int) -> dict[str, float]:
        """How the rows came, `broken` of them met as such; every worker calls it at the same step."""
        found = self._worker.data_facts.take()
        bad_rows = self._seen.check_broken(broken)
        if bad_rows:
            found["data/bad_rows"] = bad_rows
        if not self._told_first_batch and self.times.first_wait_s is not None:
            self._told_first_batch = True
            found["time/first_batch_s"] = self.times.first_wait_s
        return found

    def _exchanged(self, terms: Tensor) -> _OfAllWorkers:
        """One exchange and one read by the host, whatever is told."""
        worker = self._worker
        # Every worker fills its own place; written on the device, since a copy of a list would be waited for.
        peaks = torch.zeros(worker.world_size, dtype=torch.float64, device=terms.device)
        peaks[worker.rank] = worker.memory.gib()
        broken = torch.full_like(peaks[:1], self._seen.own_broken)
        found = worker.all_sum(torch.cat([terms, peaks, broken])).tolist()
        count = len(terms)
        means = [total / worker.world_size for total in found[:count]]
        return _OfAllWorkers(means, max(found[count:-1]), int(found[-1]))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line, and the points of TensorBoard and the trackers."""
        self.latest |= {**values, "step": max(step, self.latest.get("step", 0))}
        self._worker.show(values | {"step": self.latest["step"]})
        if self._worker.rank:
            return
        line = {"step": step, "epoch": step / self._plan.steps_per_epoch, **values}
        self._patiently(artefact.line_appender(self._path, line))
        self._draw(step, values)
        if self._trackers is not None:
            self._trackers.log(step, values)

    def forget_evaluation(self, step: int) -> None:
        """Drop its line, and that of the steps before it, where they were written after the checkpoint of `step`."""
        if self._worker.rank == 0:
            self._keep_lines(
                lambda line: (
                    line["step"] != step
                    or (
                        not any(name.startswith("eval/") for name in line)
                        and not (self._steps and "train/learning_rate" in line)
                    )
                )
            )

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the line of an evaluation, which follows that of the steps before it."""
        self.write(step, {f"eval/{name}": value for name, value in metrics.items()})
        self.evaluated_step = step

    def _draw(self, step: int, values: dict[str, float]) -> None:
        """Add TensorBoard points; they show what metrics.jsonl holds, so nothing waits for them."""
        try:
            if self._points is None:
                from torch.utils.tensorboard import SummaryWriter

                folder = self._files.enter_context(
                    writing_tree(self._plan.folder / TENSORBOARD_FOLDER)
                )
                self._points = SummaryWriter(str(folder), purge_step=self._purge_step)
            for name, value in values.items():
                self._points.add_scalar(name, value, step)
        except OSError as error:
            # A writer that has failed once stays so: the next points get another, in a file of its own.
            logger.warning("step %d: TensorBoard points are lost: %s", step, error)
            self._points, self._purge_step = None, step

    def tell_restarts(self, restarts: Sequence[dict[str, Any]], resumed_step: int) -> None:
        """Append a line per restart of the run that has none yet: its cause, the step lost, the step resumed at."""
        if self._worker.rank:
            return
        told = [line for line in metric_lines(self._path) if EVENT in line]
        known = {(line["attempt"], line["unix_s"]) for line in told}
        for restart in restarts:
            if (restart["attempt"], restart["unix_s"]) not in known:
                line = {"step": resumed_step, EVENT: "restart", "resumed_step": resumed_step}
                self._patiently(artefact.line_appender(self._path, line | restart))
                known.add((restart["attempt"], restart["unix_s"]))
        self._restarts = len(known)

    def close(self, *, failed: bool = False) -> None:
        """Finish the TensorBoard file and the trackers' runs; only the first call counts."""
        if self._trackers is not None:
            self._trackers.finish(self.latest, failed=failed)
            self._trackers = None
        if self._points is not None:
            with contextlib.suppress(OSError):
                self._points.close()
        with contextlib.suppress(OSError):
            self._files.close()
