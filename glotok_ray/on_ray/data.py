"""Training rows through Ray Data: every worker's micro batches, in order, of the windows that one actor opens.

Read next: glotok_ray/on_ray/windows.py
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
import torch

from glotok_ray.on_ray.windows import Feed
from glotok_ray.training.batches import DeviceFeed, MicroBatch, ahead, check_positions

# Micro batches that wait on the device for their step.
_AHEAD = 2


def worker_batches(
    ingest: Any, feed: Feed, *, worker: int, first_step: int, device: torch.device, group: int = 0
) -> Iterator[MicroBatch]:
    """A worker's micro batches on its device, from `first_step` to the feed's last; reading runs ahead of the steps,
    into the next window where one ends. `group` is a number that the workers who start together share.

    Raises RuntimeError when rows arrive that the plan has not at that place.
    """
    make = DeviceFeed(device)

    def window(step: int) -> Iterator[MicroBatch]:
        rows: Any = ray.get(ingest.window.remote(step, worker, group, feed.division))
        positions = feed.plan.micro_batch_positions(
            step, feed.window_end(step), feed.division, worker
        )
        size = feed.division.micro_batch_size
        batches = rows.iter_batches(batch_size=size, batch_format="numpy", prefetch_batches=2)
        nothing = np.zeros(0, dtype=np.int64)
        missing = {"position": nothing}
        for found, expected in itertools.zip_longest(batches, positions, fillvalue=None):
            columns = missing if found is None else found
            check_positions(columns["position"], nothing if expected is None else expected)
            yield make(columns)

    return _windows(feed, first_step, window)


def _windows(
    feed: Feed, first_step: int, window: Callable[[int], Iterator[MicroBatch]]
) -> Iterator[MicroBatch]:
    """The windows one after another, each begun while the one before it is being learned from."""
    step = first_step
    stream = ahead(lambda: window(first_step), _AHEAD) if step < feed.last_step else None
    while stream is not None:
        end = feed.window_end(step)
        passes = feed.plan.batch_size // feed.division.num_workers // feed.division.micro_batch_size
        count = (end - step) * passes
        # Late enough that the present window's reading is done, early enough for the next one's first task.
        begin = count - max(1, count // 10)
        following = None
        for number in range(count):
            if number == begin and end < feed.last_step:
                following = ahead(functools.partial(window, end), _AHEAD)
            yield next(stream).ready()
        step, stream = end, following
