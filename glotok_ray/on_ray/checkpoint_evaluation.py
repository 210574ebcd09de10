"""Evaluates the checkpoints of a training in an actor beside it, on what the cluster has left.

The training comes first: the actor is asked for when all workers run, only where its resources are left beside theirs,
and is given back when they are not any more. Read next: glotok_ray/training/checkpoint_watch.py
"""

import contextlib
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from glotok_ray.config.checkpoint_evaluation import SECTION
from glotok_ray.config.runs import AnyGeneratorRun, GeneratorRun, TokenizerRun
from glotok_ray.on_ray.failures import one_line
from glotok_ray.storage import ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import remove_tree
from glotok_ray.training.checkpoint_protocol import Run, protocol_of
from glotok_ray.training.checkpoint_watch import CheckpointWatch, MeasurementInterrupted
from glotok_ray.training.evaluated_checkpoints import WORK_FOLDER, Measured
from glotok_ray.training.plan import LOG_FOLDER, RunPlan
from glotok_ray.training.stalls import beats_of

logger = logging.getLogger(__name__)

LOG_FILE = "checkpoint_evaluation.txt"
"""In the run's folder of logs: the tracebacks of evaluations that failed."""
_LOOK_S = 1.0
_JOIN_S = 30.0
_PATIENCE_S = 60.0
_READING_CPUS = 1.0
# Where processes share cores, the training's go first.
_NICENESS = 19


@contextlib.contextmanager
def evaluating_checkpoints(
    config: TokenizerRun | GeneratorRun,
    plan: RunPlan,
    attempt: int,
    reserved: Mapping[str, float],
) -> Iterator[None]:
    """Meanwhile checkpoints are evaluated as `checkpoint_evaluation` says; `reserved` are the resources of all workers.

    When the block has ended well, it waits for the last checkpoint's evaluation, `last_wait_minutes` at most. No
    failure of an evaluation comes out of it.
    """
    section = config.checkpoint_evaluation
    if not section.every_steps:
        yield
        return
    assert isinstance(config, TokenizerRun | AnyGeneratorRun)
    evaluation = _Evaluation(config, plan, attempt, reserved)
    evaluation.start()
    try:
        yield
        evaluation.finish(60 * section.last_wait_minutes)
    finally:
        evaluation.stop()


class _Evaluation:
    """A thread of the driver that watches the run's checkpoints, and the actor that measures them."""

    def __init__(
        self, config: Run, plan: RunPlan, attempt: int, reserved: Mapping[str, float]
    ) -> None:
        self._config, self._plan, self._attempt = config, plan, attempt
        self._reserved = dict(reserved)
        self._training_ended, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint-evaluation", daemon=True)
        self._actor: Any = None
        self._begun = self._told_no_room = False

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """The training has ended: wait for the evaluation of its last checkpoint, for so many seconds at most."""
        self._training_ended.set()
        self._thread.join(min(seconds, 2 * _LOOK_S))
        if self._thread.is_alive() and seconds:
            logger.info(
                "waiting for the evaluation of the last checkpoint, up to %g min", seconds / 60
            )
            self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning(
                "the evaluation of the last checkpoint is left: it did not end within %s.last_wait_minutes = %g; "
                "jobs.evaluate_images measures the finished run",
                SECTION,
                seconds / 60,
            )

    def stop(self) -> None:
        """End the actor, whatever it does, and the thread."""
        self._stopped.set()
        self._end_actor()
        self._thread.join(_JOIN_S)
        self._end_actor()
        if self._training_ended.is_set():
            remove_tree(self._plan.folder / WORK_FOLDER, ignore_errors=True)

    def _run(self) -> None:
        try:
            watch = CheckpointWatch(
                self._plan.folder,
                self._config.checkpoint_evaluation,
                protocol_of(self._config),
                last_step=self._plan.last_step,
                measure=self._measure,
            )
            while not self._stopped.is_set():
                ended = self._training_ended.is_set()
                is_due = watch.next_checkpoint() is not None
                if ended and not is_due:
                    return
                has_room = self._may_begin() and self._has_room()
                if not has_room:
                    self._end_actor()
                if not (has_room and is_due and self._look(watch)):
                    self._stopped.wait(_LOOK_S)
        except Exception as error:  # the training must not end with it
            logger.warning(
                "checkpoints are not evaluated any more: %s; the training goes on",
                one_line(f"{type(error).__name__}: {error}"),
            )

    def _look(self, watch: CheckpointWatch) -> bool:
        try:
            return watch.look()
        except MeasurementInterrupted:
            return False

    def _may_begin(self) -> bool:
        """Whether the training has, or had, all its workers."""
        if not (self._begun or self._training_ended.is_set()):
            beats = beats_of(self._plan.folder, self._attempt)
            self._begun = len(beats) >= self._plan.scaling.worker_range[0]
        return self._begun or self._training_ended.is_set()

    def _has_room(self) -> bool:
        """Whether the cluster has the actor's resources beside the training's; tells once that it has not."""
        section, found = self._config.checkpoint_evaluation, ray.cluster_resources()
        needed = {"CPU": section.num_cpus, "GPU": float(section.use_gpu)}
        if not self._training_ended.is_set():
            needed["CPU"] += self._reserved["CPU"] + _READING_CPUS
            needed["GPU"] += self._reserved.get("GPU", 0.0)
        short = [name for name, amount in needed.items() if found.get(name, 0.0) < amount]
        if short and not self._told_no_room:
            self._told_no_room = True
            logger.warning(
                "checkpoints wait for their evaluation: the cluster has no room for it beside the training (%s); they "
                "are evaluated when it has, at the latest at the end of the training",
                ", ".join(
                    f"{name}: {found.get(name, 0.0):g} there, {needed[name]:g} needed"
                    for name in short
                ),
            )
        return not short

    def _measure(self, checkpoint: Path) -> Measured | None:
        """As the actor says; raises ArtefactError, in one line, when it fails."""
        is_new = self._actor is None
        try:
            actor = self._actor or self._start_actor()
            measured = self._answer(actor.measure.remote(checkpoint))
            ownership.check_held()
        except RayError as error:
            self._end_actor()
            # One that had waited may have gone with its node long before: a new one tries again.
            if self._stopped.is_set() or (isinstance(error, RayActorError) and not is_new):
                raise MeasurementInterrupted from None
            raise ArtefactError(self._explained(error)) from error
        except ownership.FolderLostError:  # the driver's own look at it ends the training
            self._stopped.set()
            raise MeasurementInterrupted from None
        return measured

    def _start_actor(self) -> Any:
        section = self._config.checkpoint_evaluation
        # Inside a trial of a sweep it would look for its CPU in the trial's own small share.
        remote: Any = ray.remote(_CheckpointEvaluator).options(
            num_cpus=section.num_cpus,
            num_gpus=int(section.use_gpu),
            max_restarts=0,
            scheduling_strategy="DEFAULT",
        )
        actor = remote.remote(self._config, self._plan.folder)
        self._actor = actor
        self._answer(
            actor.ready.remote(),
            "checkpoints wait for their evaluation: no node has room for it now (see `ray status`); the training goes "
            "on",
        )
        return actor

    def _answer(self, reference: Any, told_late: str = "") -> Any:
        """What the actor returns; raises MeasurementInterrupted when it is to stop, or when the training needs its
        resources. Warns once with `told_late` when there is no answer for a minute.
        """
        late = time.monotonic() + _PATIENCE_S
        while not ray.wait([reference], timeout=_LOOK_S)[0]:
            if self._stopped.is_set() or not self._has_room():
                self._end_actor()
                raise MeasurementInterrupted
            if told_late and time.monotonic() > late:
                logger.warning(told_late)
                told_late = ""
        return ray.get(reference)

    def _end_actor(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(RayError):
                ray.kill(actor)

    def _explained(self, error: RayError) -> str:
        """One line; the traceback goes to a file of the run."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        path = self._plan.folder / LOG_FOLDER / LOG_FILE
        with contextlib.suppress(OSError), path.open("a") as stream:
            stream.write("".join(traceback.format_exception(error)) + "\n")
        text = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
        return f"{one_line(text)} (log: {path})"


class _CheckpointEvaluator:
    """Ray's side: it constructs at the first checkpoint, so that errors come back as those of a task."""

    def __init__(self, config: Run, folder: Path) -> None:
        os.nice(_NICENESS)
        if config.checkpoint_evaluation.num_threads:
            torch.set_num_threads(config.checkpoint_evaluation.num_threads)
        self._config, self._folder = config, folder
        self._measurement: Callable[[Path], Measured | None] | None = None

    def ready(self) -> bool:
        """True, once the actor has started."""
        return True

    def measure(self, checkpoint: Path) -> Measured | None:
        """The evaluation of one checkpoint."""
        # Of the feature networks, the workers of a training need not know.
        from glotok_ray.training.checkpoint_measurement import CheckpointMeasurement

        if self._measurement is None:
            self._measurement = CheckpointMeasurement(self._config, self._folder)
        return self._measurement(checkpoint)
