"""Which rows a training run reads, in which order: a pure function of (seed, epoch), so that a run can resume anywhere.

An epoch permutes the shards, then the rows inside each; the tail that fills no global batch is dropped.
Row i of this order always belongs to step i // global_batch_size, whatever the number of workers.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class ShardRows(NamedTuple):
    """A shard's file name and its number of rows (images)."""

    file: str
    rows: int


class PlanUnit(NamedTuple):
    """Positions [start, stop) of one epoch's own permutation of one shard."""

    epoch: int
    file: str
    start: int
    stop: int


def seeded_generator(*key: object) -> np.random.Generator:
    """A generator keyed by any values: the same key gives the same draws in every process."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def row_order(seed: int, epoch: int, shard: ShardRows) -> np.ndarray:
    """The epoch's permutation of a shard's rows, shape (rows,)."""
    return seeded_generator("rows", seed, epoch, shard.file).permutation(shard.rows)


def epoch_units(
    shards: Sequence[ShardRows], *, seed: int, epoch: int, num_rows: int
) -> Iterator[PlanUnit]:
    """The units of one epoch, `num_rows` rows in all; raises ValueError when the shards hold fewer."""
    available = sum(shard.rows for shard in shards)
    if num_rows > available:
        raise ValueError(
            f"num_rows = {num_rows}: the shards hold {available} rows; lower global_batch_size or add data"
        )
    left = num_rows
    for index in seeded_generator("shards", seed, epoch).permutation(len(shards)):
        shard = shards[index]
        stop = min(shard.rows, left)
        if stop > 0:
            yield PlanUnit(epoch, shard.file, 0, stop)
        left -= stop


def remaining_units(
    shards: Sequence[ShardRows], *, seed: int, epochs: int, rows_per_epoch: int, consumed_rows: int
) -> list[PlanUnit]:
    """Every unit from row `consumed_rows` of the run to the end of its last epoch."""
    first_epoch, skip = divmod(consumed_rows, rows_per_epoch)
    units = []
    for epoch in range(first_epoch, epochs):
        for unit in epoch_units(shards, seed=seed, epoch=epoch, num_rows=rows_per_epoch):
            size = unit.stop - unit.start
            if skip >= size:
                skip -= size
                continue
            units.append(unit._replace(start=unit.start + skip))
            skip = 0
    return units
