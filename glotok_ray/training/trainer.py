"""The training loop: batches in, optimizer steps, log lines, evaluations and checkpoints out.

It knows a `TrainingStep` (what is learned), a `Worker` (who else learns) and a folder, but neither
Ray nor DeepSpeed. Stopped anywhere, it goes on from the newest verified checkpoint with equal losses.
Read next: glotok_ray/training/tokenizer_step.py
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from glotok_ray.training import checkpoint
from glotok_ray.training.batches import Batch, MicroBatch
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER, check_state_layout
from glotok_ray.training.checkpoint_writer import CheckpointWriter
from glotok_ray.training.finite import StepFlags
from glotok_ray.training.metrics_log import MetricsLog
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.preemption import PreemptionNotice
from glotok_ray.training.profiling import DATA, METRICS, StepProfiler, part
from glotok_ray.training.rows_seen import RowsSeen
from glotok_ray.training.schedule import learning_rate, seed_step
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.step_times import Utilization
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

_CLOCK = "checkpoint_is_due"
_NOTICE = "a_node_is_taken_back"


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


class Trainer:
    """Runs a `TrainingStep` to the end of its plan."""

    def __init__(
        self,
        step: TrainingStep,
        state: TrainingState,
        worker: Worker,
        plan: RunPlan,
        evaluate: Callable[[], dict[str, float]] | None = None,
        utilization: Utilization | None = None,
    ) -> None:
        """`evaluate` gives metrics of the present weights, equal on every worker; without it there are none. Without
        `utilization` no MFU is logged.
        """
        self._step, self._state, self._worker, self._plan = step, state, worker, plan
        self._evaluate, self._utilization = evaluate or dict, utilization
        self._checkpoints = plan.folder / CHECKPOINT_FOLDER
        self._writer = CheckpointWriter(
            self._checkpoints,
            worker,
            facts={"state_layout": plan.state_layout},
            keep=plan.schedule.checkpoints_to_keep,
            retry_minutes=plan.scaling.storage_retry_minutes,
        )
        self._saved_at = time.monotonic()
        self._notice = PreemptionNotice()

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
            first_step=first_step,
            retry_minutes=plan.scaling.storage_retry_minutes,
        )
        log = MetricsLog(plan, self._worker, first_step, seen, self._utilization)
        log.tell_restarts(self._worker.heartbeat.restarts, first_step)
        if path is not None:
            log.load(path)
        try:
            self._train(first_step, batches(first_step), log, seen)
        except FloatingPointError:
            # All workers come here alike; what they still write is the newest state that is left.
            self._writer.wait()
            log.close(failed=True)
            raise
        except BaseException:
            # Alone in its process: who called may go on, and another job may own the folder by then. One of several
            # workers must not wait for what the others may never write.
            if self._worker.world_size == 1:
                self._writer.end()
            log.close(failed=True)
            raise
        self._writer.wait()
        self._log_written(log)
        log.close()
        self._worker.heartbeat.enter("export", plan.last_step)
        return log.latest

    def _train(
        self, first_step: int, stream: Iterator[MicroBatch], log: MetricsLog, seen: RowsSeen
    ) -> None:
        self._saved_at = time.monotonic()
        if self._evaluation_is_due(first_step) and log.evaluated_step < first_step:
            # A node was taken back before it. The next checkpoint keeps that it is done; until then it is done anew,
            # since a restart finds the state of before.
            log.forget_evaluation(first_step)
            self._measure(first_step, log)
        with StepProfiler(self._plan, self._worker) as profiler:
            for step in range(first_step, self._plan.last_step):
                with profiler.step(step):
                    self._learn(step, stream, log, seen)
                self._evaluate_and_save(step + 1, log)

    def _learn(
        self, step: int, stream: Iterator[MicroBatch], log: MetricsLog, seen: RowsSeen
    ) -> None:
        plan = self._plan
        log.times.begin()
        self._worker.heartbeat.enter("data", step)
        seed_step(plan.seed, step, self._worker.rank)
        rate = learning_rate(step, plan.total_steps, plan.optimizer)
        self._step.set_learning_rate(rate)
        with part(DATA):
            micro_batches = log.times.waiting_for(
                lambda: [next(stream) for _ in range(plan.accumulation_steps)]
            )
        self._send_clock()
        terms = self._step.learn([batch.tensors for batch in micro_batches], step)
        log.times.end()
        with part(METRICS):
            seen.add(step, micro_batches)
            log.add(step, terms, rate)

    def _evaluate_and_save(self, step: int, log: MetricsLog) -> None:
        """What is due after `step` steps."""
        noticed = self._step.flags.sums.get(_NOTICE, 0.0) > 0
        if noticed and step < self._plan.last_step:
            # At once: the notice may be of seconds, and an evaluation takes minutes.
            self._save(step, log)
            self._writer.wait()
            self._log_written(log)
            self._worker.release()
        if self._evaluation_is_due(step):
            self._measure(step, log, and_save=True)
        elif self._checkpoint_is_due(step) and not noticed:
            self._save(step, log)
        self._log_written(log)

    def _measure(self, step: int, log: MetricsLog, *, and_save: bool = False) -> None:
        log.flush(step - 1)
        self._worker.heartbeat.enter("evaluation", step)
        metrics = self._evaluate()
        log.write_evaluation(step, metrics)
        if and_save:
            self._save(step, log)
        self._worker.report({"step": step, **metrics})

    def _save(self, step: int, log: MetricsLog) -> None:
        def copy_state(into: Snapshot) -> None:
            self._state.snapshot(into)
            log.snapshot(into)

        self._worker.heartbeat.enter("checkpoint", step)
        stall = self._writer.save(step, copy_state)
        # The one before is committed by now; its line comes first.
        self._log_written(log)
        log.write(step, {"checkpoint/stall_s": stall})
        self._saved_at = time.monotonic()

    def _log_written(self, log: MetricsLog) -> None:
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
        """Rank 0's clock, and any worker's notice that its node is taken back, go to all workers with what a step
        exchanges in any case.
        """
        minutes = self._plan.schedule.checkpoint_every_minutes
        if minutes:
            due = self._worker.rank == 0 and time.monotonic() - self._saved_at >= 60 * minutes
            self._step.flags.carry(_CLOCK, float(due))
        self._step.flags.carry(_NOTICE, float(self._notice.is_new()))

    def _minutes_are_up(self) -> bool:
        return self._step.flags.sums.get(_CLOCK, 0.0) > 0
