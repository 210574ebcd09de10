"""A worker's micro batches, read and decoded by threads of its own process, ahead of the steps; no Ray.

The rows, their order and their pixels are those that Ray Data brings (glotok_ray/on_ray/data.py). Encoded bytes are
read by one thread and decoded by several, which hold no lock of Python while they do. What waits is bounded by units,
whatever the size of the data set. Read next: glotok_ray/training/batches.py
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from numpy import ndarray

from glotok_ray.data.shard_plan import Division, PlanUnit, ShardPlan
from glotok_ray.data.training_rows import EncodedRows, ImageRows
from glotok_ray.training.batches import DeviceFeed, MicroBatch, ahead, check_positions

Columns = dict[str, Any]
ReadRows = Callable[[PlanUnit], Columns]
"""The rows of a unit, with "position", "key" and "broken" among the columns; an ImageRows is decoded row by row."""

# Micro batches that wait on the device for their step.
_AHEAD = 2
# Rows of a task at most: one for each row costs threads three changes of the lock and a tenth of a millisecond a row.
_ROWS_AT_ONCE = 8
# Units that are read or decoded while one is learned from: with one alone, threads would wait for its last row.
_UNITS_AHEAD = 2


def trainer_batches(
    plan: ShardPlan,
    division: Division,
    reader: ReadRows,
    *,
    worker: int,
    steps: range,
    device: torch.device,
    num_threads: int,
) -> Iterator[MicroBatch]:
    """The worker's micro batches of `steps`, on its device; reading begins at once.

    Raises ArtefactError for a row that cannot be used, and RuntimeError when rows arrive that the plan has not.
    """
    make = DeviceFeed(device)
    size = division.micro_batch_size

    def read() -> Iterator[MicroBatch]:
        own = plan.units(steps.start, steps.stop, division, worker)
        for unit, columns in unit_columns(own, reader, num_threads):
            check_positions(columns["position"], unit.positions)
            for start in range(0, len(unit.positions), size):
                rows = slice(start, start + size)
                yield make({name: values[rows] for name, values in columns.items()})

    stream = ahead(read, _AHEAD)
    return (batch.ready() for batch in stream)


def unit_columns(
    units: Iterator[PlanUnit], reader: ReadRows, num_threads: int
) -> Iterator[tuple[PlanUnit, Columns]]:
    """Every unit and its columns, in order; the next units are being read and decoded meanwhile."""
    reading = ThreadPoolExecutor(1, thread_name_prefix="read")
    decoding = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    begin = functools.partial(_begin, reader, decoding, num_threads)
    waiting: collections.deque[tuple[PlanUnit, Future[Callable[[], Columns]]]] = collections.deque()
    try:
        for unit in units:
            waiting.append((unit, reading.submit(begin, unit)))
            if len(waiting) > _UNITS_AHEAD:
                yield _finished(waiting.popleft())
        while waiting:
            yield _finished(waiting.popleft())
    finally:
        for pool in (reading, decoding):
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(begun: tuple[PlanUnit, "Future[Callable[[], Columns]]"]) -> tuple[PlanUnit, Columns]:
    unit, finish = begun
    return unit, finish.result()()


def _begin(
    reader: ReadRows, decoding: ThreadPoolExecutor, num_threads: int, unit: PlanUnit
) -> Callable[[], Columns]:
    """Read a unit and hand its rows to the threads; what is returned waits for them."""
    if not isinstance(reader, ImageRows):
        columns = reader(unit)
        return lambda: columns
    rows = reader.read(unit)
    images = reader.empty(rows)
    at_once = max(1, min(_ROWS_AT_ONCE, len(images) // num_threads))

    def decode(start: int) -> list[str]:
        places = range(start, min(start + at_once, len(images)))
        return [reader.decode_into(images, rows, place) for place in places]

    results = [decoding.submit(decode, start) for start in range(0, len(images), at_once)]
    return functools.partial(_columns, reader, rows, images, results)


def _columns(
    reader: ImageRows, rows: EncodedRows, images: ndarray, results: list["Future[list[str]]"]
) -> Columns:
    broken = itertools.chain.from_iterable(result.result() for result in results)
    return reader.columns(rows, images, list(broken))
