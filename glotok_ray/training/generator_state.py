"""What changes while a generator is trained, and what of it a checkpoint holds.

Read next: glotok_ray/training/generator_step.py
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glotok_ray.pretrained.generator import AVERAGE_FILE, GENERATOR_FILE, WEIGHTS_FILE
from glotok_ray.storage import artefact
from glotok_ray.training.ema import ExponentialMovingAverage, whole_tensors
from glotok_ray.training.engine import Engine
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker


class GeneratorState:
    """The engine and the averaged weights."""

    def __init__(
        self,
        engine: Engine,
        average: ExponentialMovingAverage | None,
        worker: Worker,
        exported: Mapping[str, Any] | None = None,
    ) -> None:
        """With `exported`, the facts of generator.json, checkpoints also hold the whole weights for sampling."""
        self.engine, self.average, self._worker = engine, average, worker
        self._exported = exported

    def snapshot(self, into: Snapshot) -> None:
        """Add this worker's part of both; every worker calls it."""
        self.engine.snapshot(into.within("generator"))
        if self.average is not None:
            self.average.snapshot(into, self._worker.rank)
        if self._exported is not None:
            self._add_export(into, self._exported)

    def _add_export(self, into: Snapshot, facts: Mapping[str, Any]) -> None:
        """The averaged weights where an average is kept, and the raw ones else, as `load_generator` reads them."""
        keep = self._worker.rank == 0
        name = AVERAGE_FILE if self.average else WEIGHTS_FILE
        with self.average.in_place() if self.average else contextlib.nullcontext():
            into.add_weights(name, _with_scale(whole_tensors(self.engine), facts), keep=keep)
        if keep:
            into.add_bytes(GENERATOR_FILE, artefact.json_bytes(dict(facts)))

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        self.engine.load(folder / "generator")
        if self.average is not None:
            self.average.load(folder)


def _with_scale(
    tensors: Iterator[tuple[str, Tensor]], facts: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors, with the scale of an xAR's latents as it was measured: a model in bf16 has rounded it."""
    for name, tensor in tensors:
        is_scale = name == "latent_scale"
        yield name, torch.tensor(facts["latent_scale"]) if is_scale else tensor
