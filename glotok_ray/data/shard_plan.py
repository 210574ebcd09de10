"""Which rows a training run reads, in which order: a pure function of (seed, epoch), so that a run can resume anywhere.

A window of shards is open at once and every global batch draws from all of them, chunk by chunk of neighbouring rows,
so that no worker reads a whole shard for a few rows. Row i of the order always belongs to step i // global_batch_size,
whatever the number of workers. Read next: glotok_ray/data/training_rows.py
"""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

CHUNK_ROWS = 32
"""Neighbouring images of a shard that are read together, a row group of what this package writes: some 2 MB of
ImageNet's images, which a network file system reads well."""

# Batches over which the rows of a chunk are spread at least: more of them mix better, and cost a run whose units hold
# fewer steps as many readings of each chunk.
_LEAST_SPREAD = 4


class ShardRows(NamedTuple):
    """A shard's file name and its number of rows (images)."""

    file: str
    rows: int


class UnitPart(NamedTuple):
    """The rows of a unit that come from one shard."""

    shard: ShardRows
    rows: Int[ndarray, " n"]
    """Their places in the file (images)."""
    places: Int[ndarray, " n"]
    """Their places in the unit."""


class PlanUnit(NamedTuple):
    """What one task reads: the rows of one worker for some steps, in the order in which it learns from them."""

    epoch: int
    positions: Int[ndarray, " n"]
    """Places of the rows in the order of the whole run."""
    parts: tuple[UnitPart, ...]


class Division(NamedTuple):
    """How the rows of a run are divided into units."""

    num_workers: int
    micro_batch_size: int
    """Rows per worker and forward pass; divides the worker's share of a batch."""
    unit_rows: int
    """Rows of a unit, at most, unless a micro batch alone has more."""


def seeded_generator(*key: object) -> np.random.Generator:
    """A generator keyed by any values: the same key gives the same draws in every process."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


class EpochOrder(NamedTuple):
    """Every row of the data set once, in an epoch's order."""

    shard: Int[ndarray, " rows"]
    """Index of the shard."""
    row: Int[ndarray, " rows"]
    """Place in the shard's file."""


def epoch_order(
    shards: tuple[ShardRows, ...], *, seed: int, epoch: int, batch_size: int, open_shards: int
) -> EpochOrder:
    """The order of one epoch's rows.

    Shards in random order fill `open_shards` lanes, which are read side by side, each in chunks in random order, the
    rows of each chunk in random order. What the lanes give is cut into groups of several batches, and the rows of a
    group are dealt to its batches like cards: each batch has its share of every chunk of the group.
    """
    generator = seeded_generator("order", seed, epoch)
    chunk_shard, chunk_start, chunk_size = _chunks(shards, open_shards, generator)
    # Every worker makes it, so its columns are of four bytes: of ImageNet 31 MiB at the peak, not 55.
    chunk = np.repeat(np.arange(len(chunk_size), dtype=np.int32), chunk_size)
    first = np.cumsum(chunk_size) - chunk_size
    # Sorted chunk by chunk, random fractions shuffle the rows of each.
    places = generator.random(len(chunk))
    places += chunk
    shuffled = np.argsort(places).astype(np.int32)
    del places
    dealt = shuffled[_dealt(len(chunk), batch_size, group_batches(batch_size, open_shards))]
    chunk = chunk[dealt]
    rows = (chunk_start - first).astype(np.int32)[chunk]
    rows += dealt
    return EpochOrder(chunk_shard.astype(np.int32)[chunk], rows)


def group_batches(batch_size: int, open_shards: int) -> int:
    """Batches over which chunks are dealt: enough that a group holds two chunks per open shard; some are short."""
    return max(_LEAST_SPREAD, -(-2 * CHUNK_ROWS * open_shards // batch_size))


def _dealt(rows: int, batch_size: int, spread: int) -> ndarray:
    """For every place of the order, the place in the lanes' stream; what fills no batch stays at the end."""
    size = spread * batch_size
    places = np.arange(rows, dtype=np.int32)
    whole = places[: rows // size * size].reshape(-1, batch_size, spread).swapaxes(1, 2)
    batches = rows % size // batch_size
    rest = places[whole.size :][: batches * batch_size].reshape(batch_size, batches)
    tail = places[whole.size + rest.size :]
    return np.concatenate([whole.reshape(-1), rest.T.reshape(-1), tail])


def _chunks(
    shards: tuple[ShardRows, ...], open_shards: int, generator: np.random.Generator
) -> tuple[ndarray, ndarray, ndarray]:
    """Shard, first row and size of every chunk, in the order in which lanes take turns."""
    rows = np.array([shard.rows for shard in shards])
    counts = -(-rows // CHUNK_ROWS)
    lane_of = np.empty(len(shards), dtype=np.int64)
    turn_of = np.empty(len(shards), dtype=np.int64)
    drawn = generator.permutation(len(shards))
    lane_of[drawn] = np.arange(len(shards)) % open_shards
    turn_of[drawn] = np.arange(len(shards))
    shard = np.repeat(np.arange(len(shards)), counts)
    number = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * CHUNK_ROWS
    size = np.minimum(CHUNK_ROWS, rows[shard] - start)
    # Within a lane: shard after shard, the chunks of each at random.
    within = np.lexsort((generator.random(len(shard)), turn_of[shard], lane_of[shard]))
    lane_sizes = np.bincount(lane_of[shard], minlength=open_shards)
    lane = lane_of[shard][within]
    place = np.arange(len(shard)) - (np.cumsum(lane_sizes) - lane_sizes)[lane]
    # Lanes of different lengths end together.
    turns = within[np.lexsort((lane, (place + 0.5) / lane_sizes[lane]))]
    return shard[turns], start[turns], size[turns]


@dataclass(frozen=True)
class ShardPlan:
    """The rows of a whole run, for any stretch of its steps and any number of workers."""

    shards: tuple[ShardRows, ...]
    seed: int
    batch_size: int
    """Rows per optimizer step, over all workers."""
    steps_per_epoch: int
    open_shards: int

    def __post_init__(self) -> None:
        available, needed = (
            sum(shard.rows for shard in self.shards),
            self.steps_per_epoch * self.batch_size,
        )
        if needed > available:
            raise ValueError(
                f"{self.steps_per_epoch} steps of {self.batch_size} rows: the shards hold {available} rows; lower "
                "global_batch_size or add data"
            )

    def units(
        self, first_step: int, last_step: int, division: Division, worker: int | None = None
    ) -> Iterator[PlanUnit]:
        """The units of steps [first_step, last_step): unit i is worker i % num_workers's; with `worker` its own alone.

        A unit lies within an epoch and holds whole micro batches: those of as many steps of its worker as fit, or a
        part of a step's. Units that follow each other, one per worker, have equally many rows.
        """
        share = self.batch_size // division.num_workers
        cuts = _cuts(share, division)
        workers = range(division.num_workers) if worker is None else (worker,)
        for start, stop in self._stretches(first_step, last_step, division):
            for cut in range(cuts):
                for each in workers:
                    begin = each * share + cut * (share // cuts)
                    yield self._unit(start, stop, begin, share // cuts)

    def window_end(
        self, first_step: int, last_step: int, division: Division, most_units: int
    ) -> int:
        """The step at which a window from `first_step` ends that has at most `most_units` units, if one stretch of
        steps has no more.
        """
        share = self.batch_size // division.num_workers
        stretches = max(1, most_units // (division.num_workers * _cuts(share, division)))
        found = itertools.islice(self._stretches(first_step, last_step, division), stretches)
        return [stop for _, stop in found][-1]

    def micro_batch_positions(
        self, first_step: int, last_step: int, division: Division, worker: int
    ) -> Iterator[ndarray]:
        """Places in the order of the run of each of a worker's micro batches of steps [first_step, last_step)."""
        share, size = self.batch_size // division.num_workers, division.micro_batch_size
        cuts = _cuts(share, division)
        for start, stop in self._stretches(first_step, last_step, division):
            for cut in range(cuts):
                begin = worker * share + cut * (share // cuts)
                yield from self._positions(start, stop, begin, share // cuts).reshape(-1, size)

    def _stretches(
        self, first_step: int, last_step: int, division: Division
    ) -> Iterator[tuple[int, int]]:
        """Stretches of steps, one unit each; they begin with groups of chunks, so that most chunks are read once."""
        steps = max(1, division.unit_rows * division.num_workers // self.batch_size)
        spread = group_batches(self.batch_size, self.open_shards)
        if steps > spread:
            steps = steps // spread * spread
        start = first_step
        while start < last_step:
            epoch, within = divmod(start, self.steps_per_epoch)
            stop = epoch * self.steps_per_epoch + min(
                (within // steps + 1) * steps, self.steps_per_epoch
            )
            yield start, min(stop, last_step)
            start = min(stop, last_step)

    def _unit(self, start: int, stop: int, begin: int, rows: int) -> PlanUnit:
        positions = self._positions(start, stop, begin, rows)
        epoch = start // self.steps_per_epoch
        order = self._order(epoch)
        offsets = positions - epoch * self.steps_per_epoch * self.batch_size
        shard, row = order.shard[offsets], order.row[offsets]
        parts = []
        for index in np.unique(shard).tolist():
            places = np.flatnonzero(shard == index)
            parts.append(UnitPart(self.shards[index], row[places], places))
        return PlanUnit(epoch, positions, tuple(parts))

    def _positions(self, start: int, stop: int, begin: int, rows: int) -> ndarray:
        """Rows [begin, begin + rows) of every batch of steps [start, stop)."""
        steps = np.arange(start, stop, dtype=np.int64)[:, None]
        return (steps * self.batch_size + begin + np.arange(rows)).reshape(-1)

    def _order(self, epoch: int) -> EpochOrder:
        return _cached_order(self.shards, self.seed, epoch, self.batch_size, self.open_shards)


# A data set of ImageNet's size takes 10 MB per epoch.
@functools.lru_cache(maxsize=1)
def _cached_order(
    shards: tuple[ShardRows, ...], seed: int, epoch: int, batch_size: int, open_shards: int
) -> EpochOrder:
    return epoch_order(
        shards, seed=seed, epoch=epoch, batch_size=batch_size, open_shards=open_shards
    )


def _cuts(share: int, division: Division) -> int:
    """Into how many units a worker's share of a batch is cut: the fewest of whole micro batches that fit."""
    passes = share // division.micro_batch_size
    fitting = [
        n for n in range(1, passes + 1) if passes % n == 0 and share // n <= division.unit_rows
    ]
    return min(fitting, default=passes)
