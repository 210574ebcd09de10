"""Where the sections of `benchmarks.gpu_check` run: a device, its clock, its peak rate, and what a section tells."""

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from glotok_ray.training.device_rates import peak_rate
from glotok_ray.training.worker import DistributedWorker

RATIO = "ratio"
"""Unit of rows that compare two figures; they are also listed among the ratios."""


class Row(NamedTuple):
    """One figure of a section."""

    measure: str
    value: float
    unit: str
    note: str = ""


class LeftOut(Exception):  # noqa: N818 - no error
    """A section, or the rest of it, cannot run here; its text says why."""


@dataclass(frozen=True)
class Place:
    """A device and the size of what runs on it."""

    device: str
    """"cuda" or "cpu"."""
    tiny: bool
    """Small models and few repetitions: shows that a section runs, and nothing about speed."""

    @property
    def on_gpu(self) -> bool:
        """Whether this is a GPU."""
        return self.device == "cuda"

    @property
    def torch_device(self) -> torch.device:
        """With an index, as workers have it."""
        return torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")

    def size(self, full: int, tiny: int) -> int:
        """One of two sizes."""
        return tiny if self.tiny else full

    def wait(self) -> None:
        """Until the device has done all that it was asked."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], Any], repeats: int, warm_ups: int = 1) -> float:
        """Mean of `repeats` runs behind each other, after some that warm up."""
        for _ in range(warm_ups):
            action()
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            action()
        self.wait()
        return (time.perf_counter() - start) / repeats

    def memory_gib(self) -> float:
        """All memory of the device; infinite on a CPU, where nothing is fitted to it."""
        if not self.on_gpu:
            return float("inf")
        return torch.cuda.get_device_properties(0).total_memory / 2**30

    def forget(self) -> None:
        """Give freed memory back, engines that refer to themselves included."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def peak_rate(self) -> float | None:
        """Dense bf16 operations per second by the card's data sheet; None for a card that is not in the table."""
        return peak_rate(self.torch_device)

    @contextmanager
    def worker(self) -> Iterator[DistributedWorker]:
        """The only rank of a process group: NCCL on a GPU, gloo on a CPU."""
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        if self.on_gpu:
            torch.cuda.set_device(0)
        with TemporaryDirectory() as folder:
            torch.distributed.init_process_group(
                "nccl" if self.on_gpu else "gloo",
                init_method=f"file://{Path(folder) / 'meet'}",
                rank=0,
                world_size=1,
            )
            try:
                yield DistributedWorker(self.torch_device)
            finally:
                torch.distributed.destroy_process_group()


class Work(NamedTuple):
    """What a GPU did."""

    seconds: float
    """In which it did anything."""
    launches: int
    """Kernels and copies."""


def work_of(place: Place, action: Callable[[], Any]) -> Work | None:
    """What one call of `action` asks of the GPU; None on a CPU. The host is slowed down meanwhile, the GPU's kernels
    are not.
    """
    if not place.on_gpu:
        return None
    place.wait()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        action()
        place.wait()
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in found.events()
        # Annotations lie over the gaps between kernels too.
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return Work(covered(spans) / 1e6, len(spans))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what any of the spans covers."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


class Stopwatch:
    """Adds up how long the device is busy with named parts of a step; the host does not wait meanwhile."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is asked of the device meanwhile counts under `name`; parts may lie within others."""
        start = self._now()
        yield
        self._spans.append((name, start, self._now()))

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count every call of a function that `owner` holds."""
        real = getattr(owner, attribute)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return real(*args, **kwargs)

        setattr(owner, attribute, call)

    def seconds(self) -> dict[str, float]:
        """By name, of all calls since the last time."""
        self._place.wait()
        found: dict[str, float] = {}
        for name, start, end in self._spans:
            span = start.elapsed_time(end) / 1e3 if self._place.on_gpu else end - start
            found[name] = found.get(name, 0.0) + span
        self._spans.clear()
        return found

    def _now(self) -> Any:
        if not self._place.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
