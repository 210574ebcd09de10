"""The training loop: batches in, optimizer steps, log lines, evaluations and checkpoints out.

It knows a `TrainingStep` (what is learned), a `Worker` (who else learns) and a folder, but neither
Ray nor DeepSpeed. Stopped anywhere, it goes on from the newest verified checkpoint with equal losses.
Read next: glotok_ray/training/tokenizer_step.py
"""

import collections
import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from glotok_ray.config.training import OptimizerConfig, ScalingConfig, ScheduleConfig
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import patiently
from glotok_ray.training import checkpoint
from glotok_ray.training.batches import Batch, MicroBatch
from glotok_ray.training.checkpoint_writer import CheckpointWriter
from glotok_ray.training.finite import StepFlags
from glotok_ray.training.rows_seen import RowsSeen, read_lines
from glotok_ray.training.schedule import learning_rate, seed_step
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
METRICS_FILE = "metrics.jsonl"
# A line of metrics.jsonl that holds this name tells of something that happened, and no figures.
EVENT = "event"
CHECKPOINT_FOLDER = "checkpoints"
_TAIL_BYTES = 1 << 16
_CLOCK = "checkpoint_is_due"
TENSORBOARD_FOLDER = "tensorboard"


class TrainingStep(Protocol):
    """One optimizer step of a model."""

    flags: StepFlags
    """What the workers exchange once per step; a number that the trainer lets it carry comes back summed."""

    def learn(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """Run one optimizer step on the micro batches of this worker; returns scalar terms, averaged over them."""
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every engine."""
        ...


class TrainingState(Protocol):
    """What must be saved to go on with a training."""

    def snapshot(self, into: Snapshot) -> None:
        """Add this worker's part of the state; every worker calls it."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The arithmetic of a run."""

    folder: Path
    seed: int
    steps_per_epoch: int
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    scaling: ScalingConfig
    max_bad_rows: int = 0
    audit_keys: bool = False

    @property
    def state_layout(self) -> dict[str, Any]:
        """What decides the files of a checkpoint; a run goes on under the same alone."""
        names = ("num_workers", "engine", "zero_stage", "precision")
        return {f"scaling.{name}": getattr(self.scaling, name) for name in names}

    @property
    def micro_batch_size(self) -> int:
        """Images per worker and forward pass."""
        return self.schedule.micro_batch(self.scaling.num_workers)

    @property
    def accumulation_steps(self) -> int:
        """Forward passes per worker and optimizer step."""
        return self.schedule.accumulation_steps(self.scaling.num_workers)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.schedule.epochs

    @property
    def last_step(self) -> int:
        """Optimizer steps after which this process stops."""
        return min(self.schedule.stop_after_steps or self.total_steps, self.total_steps)


class Trainer:
    """Runs a `TrainingStep` to the end of its plan."""

    def __init__(
        self,
        step: TrainingStep,
        state: TrainingState,
        worker: Worker,
        plan: RunPlan,
        evaluate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        """`evaluate` gives metrics of the present weights, equal on every worker; without it there are none."""
        self._step, self._state, self._worker, self._plan = step, state, worker, plan
        self._evaluate = evaluate or dict
        self._checkpoints = plan.folder / CHECKPOINT_FOLDER
        self._writer = CheckpointWriter(
            self._checkpoints,
            worker,
            facts={"state_layout": plan.state_layout},
            keep=plan.schedule.checkpoints_to_keep,
            retry_minutes=plan.scaling.storage_retry_minutes,
        )
        self._saved_at = time.monotonic()

    def fit(self, batches: Callable[[int], Iterator[MicroBatch]]) -> dict[str, Any]:
        """Train to `plan.last_step`; `batches(step)` yields this worker's micro batches from that step on.

        Returns the last logged metrics, when the last checkpoint is on disk. Raises FloatingPointError, from the step,
        on a loss that is not finite, and StorageError when a checkpoint cannot be written.
        """
        path = self._resume()
        first_step = checkpoint.checkpoint_step(path)
        plan = self._plan
        seen = RowsSeen(
            plan.folder,
            self._worker,
            plan.max_bad_rows,
            audit=plan.audit_keys,
            retry_minutes=plan.scaling.storage_retry_minutes,
        )
        log = MetricsLog(plan, self._worker, first_step, seen)
        log.tell_restarts(self._worker.heartbeat.restarts, first_step)
        if path is not None:
            log.load(path)
        try:
            self._train(first_step, batches(first_step), log, seen)
        except FloatingPointError:
            # All workers come here alike; what they still write is the newest state that is left.
            self._writer.wait()
            raise
        self._writer.wait()
        self._log_written(log)
        log.close()
        self._worker.heartbeat.enter("export", plan.last_step)
        return log.latest

    def _train(
        self, first_step: int, stream: Iterator[MicroBatch], log: "MetricsLog", seen: RowsSeen
    ) -> None:
        plan = self._plan
        self._saved_at = time.monotonic()
        for step in range(first_step, plan.last_step):
            self._worker.heartbeat.enter("data", step)
            seed_step(plan.seed, step, self._worker.rank)
            rate = learning_rate(step, plan.total_steps, plan.optimizer)
            self._step.set_learning_rate(rate)
            micro_batches = log.waiting_for(
                lambda: [next(stream) for _ in range(plan.accumulation_steps)]
            )
            self._send_clock()
            terms = self._step.learn([batch.tensors for batch in micro_batches], step)
            seen.add(step, micro_batches)
            log.add(step, terms, rate)
            if self._evaluation_is_due(step + 1):
                log.flush(step)
                self._worker.heartbeat.enter("evaluation", step + 1)
                metrics = self._evaluate()
                log.write(step + 1, {f"eval/{name}": value for name, value in metrics.items()})
                self._save(step + 1, log)
                self._worker.report({"step": step + 1, **metrics})
            elif self._checkpoint_is_due(step + 1):
                self._save(step + 1, log)
            self._log_written(log)

    def _save(self, step: int, log: "MetricsLog") -> None:
        def copy_state(into: Snapshot) -> None:
            self._state.snapshot(into)
            log.snapshot(into)

        self._worker.heartbeat.enter("checkpoint", step)
        stall = self._writer.save(step, copy_state)
        # The one before is committed by now; its line comes first.
        self._log_written(log)
        log.write(step, {"checkpoint/stall_s": stall})
        self._saved_at = time.monotonic()

    def _log_written(self, log: "MetricsLog") -> None:
        written = self._writer.take_written()
        if written is not None:
            values = {"checkpoint/write_s": written.seconds, "checkpoint/gib": written.gib}
            log.write(written.step, values)

    def _resume(self) -> Path | None:
        path = checkpoint.agreed_checkpoint(
            self._checkpoints,
            self._worker,
            retry_minutes=self._plan.scaling.storage_retry_minutes,
        )
        if path is not None:
            check_state_layout(path, self._plan)
            self._state.load(path)
            logger.info("resuming at step %d from %s", checkpoint.checkpoint_step(path), path.name)
        return path

    def _evaluation_is_due(self, step: int) -> bool:
        every = self._plan.steps_per_epoch * self._plan.schedule.checkpoint_every_epochs
        return step % every == 0 or step == self._plan.last_step

    def _checkpoint_is_due(self, step: int) -> bool:
        """Whether one is due between evaluations, by steps or minutes; alike on all workers."""
        every = self._plan.schedule.checkpoint_every_steps
        return bool(every and step % every == 0) or self._minutes_are_up()

    def _send_clock(self) -> None:
        """Rank 0's clock goes to all workers with what a step exchanges in any case."""
        minutes = self._plan.schedule.checkpoint_every_minutes
        if minutes:
            due = self._worker.rank == 0 and time.monotonic() - self._saved_at >= 60 * minutes
            self._step.flags.carry(_CLOCK, float(due))

    def _minutes_are_up(self) -> bool:
        return self._step.flags.sums.get(_CLOCK, 0.0) > 0


def check_state_layout(path: Path, plan: RunPlan) -> None:
    """Raise ArtefactError when the checkpoint at `path` was saved under a layout that the plan does not have."""
    saved = artefact.read_json(path / artefact.MANIFEST)["state_layout"]
    for name, value in plan.state_layout.items():
        if saved.get(name) != value:
            raise ArtefactError(
                f"{path}: saved with {name} = {saved.get(name)}, and this run has {value}; set it back, or start a new "
                f"run under another --name (in jobs.train_tokenizer from its weights: --initial-path {path})"
            )


def last_metrics(folder: Path, step: int | None = None) -> dict[str, Any]:
    """The newest value of every metric in a run's metrics.jsonl, up to `step` where it is given."""
    return _newest(
        line
        for line in _metric_lines(folder / METRICS_FILE)
        if step is None or line["step"] <= step
    )


def _newest(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The newest value of every metric; events tell of none."""
    metrics: dict[str, Any] = {}
    # In the order of steps: what is known of a checkpoint when it is written comes after lines of later steps.
    for line in sorted(lines, key=lambda line: line["step"]):
        metrics |= {} if EVENT in line else line
    # Of one line, not of the newest values.
    metrics.pop(artefact.NOT_FINITE, None)
    return metrics


def latest_metrics(folder: Path) -> dict[str, Any]:
    """The newest value of every metric in the end of a run's metrics.jsonl, for who looks every second for weeks."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return _newest(read_lines(stream.read().decode(errors="replace")))


def _metric_lines(path: Path) -> Iterator[dict[str, Any]]:
    return read_lines(path.read_text() if path.is_file() else "")


class MetricsLog:
    """Averages of the terms since the last line, in metrics.jsonl and TensorBoard, written by rank 0."""

    def __init__(self, plan: RunPlan, worker: Worker, first_step: int, seen: RowsSeen) -> None:
        self._plan, self._worker, self._seen = plan, worker, seen
        self._path = plan.folder / METRICS_FILE
        self._sums: dict[str, Tensor] = {}
        # Terms that are there in some steps alone are averaged over those.
        self._counts: collections.Counter[str] = collections.Counter()
        self._steps = self._timed_steps = 0
        self._rate = 0.0
        self._since = time.monotonic()
        self._waited = 0.0
        self.latest: dict[str, Any] = {}
        self._points: SummaryWriter | None = None
        self._purge_step = first_step
        if worker.rank == 0:
            self._patiently(lambda: self._drop_lines_after(first_step))

    def _patiently(self, write: Callable[[], None]) -> None:
        minutes = self._plan.scaling.storage_retry_minutes
        patiently(write, self._path, minutes=minutes, doing="writing")

    def _drop_lines_after(self, step: int) -> None:
        # A run that died after its last checkpoint repeats those steps; their lines would appear twice.
        if self._path.is_file():
            lines = [
                line for line in _metric_lines(self._path) if line["step"] <= step or EVENT in line
            ]
            with artefact.replacing(self._path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def waiting_for(self, action: Callable[[], Item]) -> Item:
        """The result of `action`, whose time counts as waiting for data."""
        started = time.monotonic()
        result = action()
        self._waited += time.monotonic() - started
        return result

    def add(self, step: int, terms: dict[str, Tensor], rate: float) -> None:
        """Take the terms of one step; every `log_every_steps` steps, write a line."""
        for name, value in terms.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1
        self._steps += 1
        self._timed_steps += 1
        self._rate = rate
        if (step + 1) % self._plan.schedule.log_every_steps == 0:
            self.flush(step)

    def snapshot(self, into: Snapshot) -> None:
        """Add what has come since the last line, so that the next one is the same after a restart."""
        state = {"sums": self._sums, "counts": dict(self._counts), "steps": self._steps}
        into.add_state(self._file, state)

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        state = torch.load(folder / self._file, weights_only=True, map_location=self._worker.device)
        self._sums, self._steps = state["sums"], state["steps"]
        self._counts = collections.Counter(state["counts"])

    @property
    def _file(self) -> str:
        return f"log-{self._worker.rank:04d}.pt"

    def flush(self, step: int) -> None:
        """Write the averages since the last line."""
        if not self._steps:
            return
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name].reshape(()) for name in names])
        totals = (self._worker.all_sum(stacked) / self._worker.world_size).tolist()
        values = {
            f"train/{name}": total / self._counts[name]
            for name, total in zip(names, totals, strict=True)
        }
        seconds = time.monotonic() - self._since
        # Steps whose terms come from a checkpoint took their time in another process.
        images = self._timed_steps * self._plan.schedule.global_batch_size
        values |= {
            "train/learning_rate": self._rate,
            "time/images_per_s": images / seconds,
            "time/data_share": self._waited / seconds,
            "memory/peak_gib": self._largest_peak(stacked.device),
        }
        bad_rows = self._seen.measure()
        if bad_rows:
            values["data/bad_rows"] = bad_rows
        self.write(step + 1, values)
        self._sums, self._steps, self._timed_steps = {}, 0, 0
        self._since, self._waited = time.monotonic(), 0.0
        self._counts.clear()

    def _largest_peak(self, device: torch.device) -> float:
        peaks = torch.zeros(self._worker.world_size, dtype=torch.float64, device=device)
        peaks[self._worker.rank] = self._worker.memory.gib()
        return float(self._worker.all_sum(peaks).max())

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line and the TensorBoard points."""
        self.latest |= {**values, "step": max(step, self.latest.get("step", 0))}
        if self._worker.rank:
            return
        line = {"step": step, "epoch": step / self._plan.steps_per_epoch, **values}
        self._patiently(lambda: artefact.append_line(self._path, line))
        self._draw(step, values)

    def _draw(self, step: int, values: dict[str, float]) -> None:
        """Add TensorBoard points; they show what metrics.jsonl holds, so nothing waits for them."""
        try:
            if self._points is None:
                folder = str(self._plan.folder / TENSORBOARD_FOLDER)
                self._points = SummaryWriter(folder, purge_step=self._purge_step)
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
        told = [line for line in _metric_lines(self._path) if EVENT in line]
        known = {(line["attempt"], line["unix_s"]) for line in told}
        for restart in restarts:
            if (restart["attempt"], restart["unix_s"]) not in known:
                line = {"step": resumed_step, EVENT: "restart", "resumed_step": resumed_step}
                told_now = line | restart
                self._patiently(functools.partial(artefact.append_line, self._path, told_now))

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._points is not None:
            with contextlib.suppress(OSError):
                self._points.close()
