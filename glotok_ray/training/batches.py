"""Micro batches on their way to the step: columns of rows become tensors on the device, ahead of the step that learns.

Read next: glotok_ray/training/trainer.py
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

Batch = dict[str, Tensor]
Item = TypeVar("Item")

_ACCOUNTED = ("position", "key", "broken")


class MicroBatch(NamedTuple):
    """What one forward pass learns from, and what is to be told of its rows."""

    tensors: Batch
    keys: list[str]
    """Keys of the rows that the plan has at this place."""
    broken: list[str]
    """Per row, why another one stands in its place; empty where none does."""
    copied: torch.cuda.Event | None = None
    """Recorded when the tensors have reached a GPU."""

    def ready(self) -> "MicroBatch":
        """The same, once the present stream has been told to wait for the copies."""
        if self.copied is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.copied)
            for tensor in self.tensors.values():
                tensor.record_stream(stream)
        return self


def check_positions(found: ndarray, expected: ndarray) -> None:
    """Raise RuntimeError when rows are not those of the plan, so that no run goes on with others."""
    if not np.array_equal(found, expected):
        raise RuntimeError(
            f"rows {_ends(found)} of the run arrived where the plan has {_ends(expected)}; nothing was learned from "
            "them. This is a fault of the data feed: please report it"
        )


def _ends(values: ndarray) -> str:
    return f"{values[0]} to {values[-1]} ({len(values)})" if len(values) else "none"


class DeviceFeed:
    """Makes micro batches of columns; to a GPU they go by a stream of their own, from pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, columns: Mapping[str, Any]) -> MicroBatch:
        """The micro batch of all rows in `columns`."""
        arrays = {
            name: np.asarray(values) for name, values in columns.items() if name not in _ACCOUNTED
        }
        keys, broken = ([str(text) for text in columns[name]] for name in ("key", "broken"))
        if self._stream is None:
            return MicroBatch({name: _own(values) for name, values in arrays.items()}, keys, broken)
        with torch.cuda.stream(self._stream):
            moved = {
                name: _pinned(values).to(self._device, non_blocking=True)
                for name, values in arrays.items()
            }
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return MicroBatch(moved, keys, broken, copied)


def _own(values: ndarray) -> Tensor:
    """A tensor that may be written to; rows that come out of shared memory may not."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _pinned(values: ndarray) -> Tensor:
    """The one copy on this side, in memory from which a GPU copies by itself."""
    dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
    found = torch.empty(values.shape, dtype=dtype, pin_memory=True)
    np.copyto(found.numpy(), values)
    return found


def ahead(items: Callable[[], Iterator[Item]], depth: int) -> Iterator[Item]:
    """The items of an iterator that a thread runs, at most `depth` ahead; its error is raised where it would have been.

    The thread starts at once, and ends with the returned generator.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((kind, value), timeout=0.5)
                return

    def fill() -> None:
        try:
            for item in items():
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    threading.Thread(target=fill, daemon=True).start()
    return _drain(waiting, stopped)


def _drain(waiting: "queue.Queue[tuple[str, Any]]", stopped: threading.Event) -> Iterator[Any]:
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
