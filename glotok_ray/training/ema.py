"""The exponential moving average of the weights, in fp32, updated every optimizer step (xAR: decay 0.9999).

Every worker averages only what its engine gives it to update, so under ZeRO the average is as sharded as the optimizer.
Read next: glotok_ray/training/tokenizer_step.py
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from glotok_ray.storage.weights import DROP_CHECKPOINT, check_finite
from glotok_ray.training.engine import Engine
from glotok_ray.training.pieces import add_pieces, read_pieces
from glotok_ray.training.snapshot import Snapshot

_PIECES = "average"


class ExponentialMovingAverage:
    """Averaged parameters of an engine's module, this worker's part."""

    def __init__(self, engine: Engine, decay: float, *, warmup: bool = True) -> None:
        """`warmup` lets the decay rise to `decay`: early averages would otherwise be the initial weights."""
        self._engine, self._decay, self._warmup = engine, decay, warmup
        self._shards = [shard.detach().clone() for shard in engine.shards()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move toward the parameters after optimizer step `step` (0-based)."""
        decay = min(self._decay, (1 + step) / (10 + step)) if self._warmup else self._decay
        shards = self._engine.shards()
        assert len(shards) == len(self._shards)
        if shards:
            # A GPU moves all of them by a few kernels, of which there are hundreds else.
            move = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
            move(self._shards, shards, 1 - decay)

    def replace_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of an averaged parameter; every worker calls it with equal arguments."""
        with self.in_place():
            self._engine.replace_rows(name, rows, values)

    def whole(self, *, keep: bool) -> dict[str, Tensor]:
        """As `whole_state`, with the averaged parameters and the module's own buffers."""
        with self.in_place():
            return whole_state(self._engine, keep=keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the averages stand where the engine gathers its own shards from."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for shard, average in zip(self._engine.shards(), self._shards, strict=True):
            held = shard.clone()
            shard.copy_(average)
            average.copy_(held)

    def snapshot(self, into: Snapshot, rank: int) -> None:
        """Add this worker's part, in pieces that any number of workers can take up."""
        if self._engine.is_sharded or rank == 0:
            add_pieces(into, _PIECES, rank, self._engine.stretches(), {"average": self._shards})

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        stretches = self._engine.stretches()
        found = {"average": [torch.empty_like(shard) for shard in self._shards]}
        read_pieces(folder, _PIECES, stretches, found, self._engine.share)
        named = {
            stretch.name: value for stretch, value in zip(stretches, found["average"], strict=True)
        }
        check_finite(named, folder / f"{_PIECES}-*", DROP_CHECKPOINT)
        for average, value in zip(self._shards, found["average"], strict=True):
            average.copy_(value)


def make_average(engine: Engine, decay: float, *, warmup: bool) -> ExponentialMovingAverage | None:
    """The average of an engine's parameters; None where the decay of 0 says that none is kept."""
    return ExponentialMovingAverage(engine, decay, warmup=warmup) if decay else None


def whole_state(engine: Engine, *, keep: bool) -> dict[str, Tensor]:
    """A state dict in fp32 on the CPU, gathered parameter by parameter; every worker calls it, and those that `keep`
    get it.
    """
    state: dict[str, Tensor] = {}
    for name, value in whole_tensors(engine):
        if keep:
            value = value.detach().cpu()
            state[name] = value.float().clone() if value.is_floating_point() else value.clone()
    return state


def whole_tensors(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Buffers and whole parameters, gathered one by one; every worker must go through all of them."""
    return itertools.chain(engine.module.named_buffers(), engine.full_precision_parameters())
