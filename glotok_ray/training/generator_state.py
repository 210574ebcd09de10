"""What changes while a generator is trained, and what of it a checkpoint holds.

Read next: glotok_ray/training/generator_step.py
"""

from pathlib import Path

from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import Engine
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker


class GeneratorState:
    """The engine and the averaged weights."""

    def __init__(
        self, engine: Engine, average: ExponentialMovingAverage | None, worker: Worker
    ) -> None:
        self.engine, self.average, self._worker = engine, average, worker

    def snapshot(self, into: Snapshot) -> None:
        """Add this worker's part of both; every worker calls it."""
        self.engine.snapshot(into.within("generator"))
        if self.average is not None:
            self.average.snapshot(into, self._worker.rank)

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        self.engine.load(folder / "generator")
        if self.average is not None:
            self.average.load(folder, self._worker.rank)
