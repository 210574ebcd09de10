"""Which checkpoint of a running training is evaluated next, and what becomes of the result.

Measuring is another's work (`measure`), in a process of its own. No failure of it ends the training.
Read next: glotok_ray/training/checkpoint_measurement.py, glotok_ray/on_ray/checkpoint_evaluation.py
"""

import logging
from collections.abc import Callable
from pathlib import Path

from glotok_ray.config.checkpoint_evaluation import CheckpointEvaluationConfig
from glotok_ray.storage import artefact
from glotok_ray.storage.places import writing_tree
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER, checkpoint_step
from glotok_ray.training.evaluated_checkpoints import (
    EvaluatedCheckpoints,
    Measured,
    Protocol,
)
from glotok_ray.training.metrics_log import TENSORBOARD_FOLDER

logger = logging.getLogger(__name__)

_MOST_FAILURES = 3
"""In a row, after which no more checkpoints are evaluated."""


class MeasurementInterrupted(Exception):  # noqa: N818 - no error
    """Raised by `measure` when it had to stop for no fault of its own: nothing is noted, and it may be asked again."""


class CheckpointWatch:
    """Has the newest checkpoint of a run measured whenever one is due, one at a time."""

    def __init__(
        self,
        folder: Path,
        config: CheckpointEvaluationConfig,
        protocol: Protocol,
        *,
        last_step: int,
        measure: Callable[[Path], Measured | None],
    ) -> None:
        """`folder` is the run's. `measure` gets a checkpoint's folder; it returns None when that is removed
        meanwhile.
        """
        self._folder, self._every, self._last_step = folder, config.every_steps, last_step
        self._evaluated = EvaluatedCheckpoints(folder, config.chosen_metric, protocol)
        self._metric, self._measure = config.chosen_metric.entry, measure
        self._given_up: set[int] = set()
        self._failures = 0

    def next_checkpoint(self) -> Path | None:
        """The newest finished checkpoint, if it is due; None otherwise."""
        if self._failures >= _MOST_FAILURES:
            return None
        found = finished_checkpoints(self._folder / CHECKPOINT_FOLDER)
        if not found:
            return None
        step = checkpoint_step(found[-1])
        if step in self._evaluated.steps | self._given_up:
            return None
        is_due = step - self._newest_evaluated() >= self._every or step == self._last_step
        return found[-1] if is_due else None

    def look(self) -> bool:
        """Have the checkpoint that is due measured; False when none is. Raises MeasurementInterrupted alone."""
        path = self.next_checkpoint()
        if path is None:
            return False
        self._tell_passed_over(checkpoint_step(path))
        try:
            measured = self._measure(path)
            if measured is not None:
                self._note(measured)
        except MeasurementInterrupted:
            raise
        except Exception as error:  # whatever it is, the training goes on
            self._fail(checkpoint_step(path), error)
            return True
        if measured is None:
            logger.info("%s was removed before it was read, so it is not evaluated", path.name)
            self._given_up.add(checkpoint_step(path))
        return True

    def _note(self, measured: Measured) -> None:
        self._failures = 0
        is_best = self._evaluated.add(measured)
        values = {name: entry["value"] for name, entry in measured.metrics.items()}
        logger.info(
            "checkpoint of step %d: %s = %s (%s), evaluated in %.0f s",
            measured.step,
            self._metric,
            self._evaluated.value_of(measured),
            "the best so far" if is_best else f"the best is step {self._evaluated.best_step}",
            measured.seconds,
        )
        _draw(self._folder, measured.step, values)

    def _fail(self, step: int, error: Exception) -> None:
        self._failures += 1
        self._given_up.add(step)
        rest = "; no more checkpoints are evaluated" if self._failures >= _MOST_FAILURES else ""
        logger.warning(
            "the checkpoint of step %d is not evaluated: %s; the training goes on%s",
            step,
            error,
            rest,
        )

    def _newest_evaluated(self) -> int:
        return max(self._evaluated.steps, default=0)

    def _tell_passed_over(self, step: int) -> None:
        """Checkpoints that were due, as far as they are still there: this one is newer."""
        due, newest = [], self._newest_evaluated()
        for path in finished_checkpoints(self._folder / CHECKPOINT_FOLDER):
            other = checkpoint_step(path)
            if newest + self._every <= other < step:
                due.append(str(other))
                newest = other
        if due:
            logger.info(
                "evaluating the checkpoint of step %d; passed over, since evaluating takes longer than training up to "
                "the next: step %s",
                step,
                ", ".join(due),
            )


def finished_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that are committed, in the order of steps."""
    return [path for path in sorted(folder.glob("step-*")) if (path / artefact.MANIFEST).is_file()]


def _draw(folder: Path, step: int, values: dict[str, float | None]) -> None:
    """Add TensorBoard points, a curve of their own beside the training's; they show what the rows hold, so a failure is
    told and nothing more.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter

        with (
            writing_tree(folder / TENSORBOARD_FOLDER / "checkpoints") as local,
            SummaryWriter(str(local)) as points,
        ):
            for name, value in values.items():
                if value is not None:
                    points.add_scalar(f"checkpoint/{name}", value, step)
    except OSError as error:
        logger.warning("step %d: TensorBoard points of the evaluation are lost: %s", step, error)
