"""What host and GPU cost each other: waits in a step, a process group, and batches that are decoded meanwhile.

Three sections of `benchmarks.gpu_check`.
"""

import collections
import gc
import io
import os
import queue
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.gpu_place import RATIO, LeftOut, Place, Row
from benchmarks.gpu_training import (
    TokenizerAtWork,
    frozen_tokenizer,
    generator_step,
    random_codes,
    tokenizer_at_work,
    tokenizer_run,
)
from glotok_ray.config import override
from glotok_ray.data.records import decode_image
from glotok_ray.recipes.train_generator import xar_b
from glotok_ray.training.batches import Batch
from glotok_ray.training.schedule import seed_step
from glotok_ray.training.worker import DistributedWorker

_OWNERS = ("glotok_ray", "deepspeed")


def host_waits(place: Place) -> Iterator[Row]:
    """How often the host waits for the GPU in an optimizer step, as CUDA tells, by whose code asked for it."""
    if not place.on_gpu:
        raise LeftOut(
            "only CUDA tells when the host waits; tests/training/test_host_reads.py counts here"
        )
    small = Place(place.device, tiny=True)
    with small.worker() as worker:
        for steps in (1, 4):
            run = tokenizer_run(small, steps)
            learn = tokenizer_at_work(small, worker, run).learn
            yield from _waits(f"tokenizer, {steps} micro batches", learn)
            yield from _waits(f"xAR, {steps} micro batches", _xar_at_work(small, worker, steps))


def _xar_at_work(place: Place, worker: DistributedWorker, steps: int) -> Callable[[], Any]:
    size = {"grid_size": 8, "cell_size": 4, "width": 64, "depth": 2, "num_heads": 2}
    changes: dict[str, Any] = {f"model.{name}": value for name, value in size.items()}
    changes |= {
        "scaling.num_workers": 1,
        "schedule.global_batch_size": 2 * steps,
        "schedule.micro_batch_size": 2,
    }
    run = override(xar_b(), changes)
    tokenizer = frozen_tokenizer(place)
    step = generator_step(worker, run, tokenizer)
    batches = [random_codes(place, tokenizer.config, run.model, 2) for _ in range(steps)]

    def learn() -> None:
        seed_step(0, 1, 0)
        step.learn(batches, 1)

    return learn


def _waits(name: str, learn: Callable[[], Any]) -> Iterator[Row]:
    for _ in range(3):
        learn()
    torch.cuda.synchronize()
    # What is let go of frees memory on the device, now and then, and has no part in a step.
    gc.collect()
    with _asked_for() as found:
        learn()
    for owner in (*_OWNERS, "other"):
        places = collections.Counter({at: n for (who, at), n in found.items() if who == owner})
        note = ", ".join(f"{at} x {count}" for at, count in places.most_common(4))
        yield Row(f"{name}: waits of {owner}", places.total(), "", note)


@contextmanager
def _asked_for() -> Iterator[collections.Counter[tuple[str, str]]]:
    """Counts CUDA's warnings by (owner, file and line) of the innermost code of ours or of DeepSpeed."""
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    # Not by a folder's name: the repository, and an environment in it, may well lie under one of the same.
    folders = {name: str(Path(str(sys.modules[name].__file__)).parent) + os.sep for name in _OWNERS}

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" not in str(message):
            return
        for frame in reversed(traceback.extract_stack()):
            for owner, folder in folders.items():
                if frame.filename.startswith(folder):
                    found[owner, f"{Path(frame.filename).name}:{frame.lineno}"] += 1
                    return
        found["other", "?"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def collectives(place: Place) -> Iterator[Row]:
    """A process group of one: NCCL starts, sums and waits, through the worker of a training."""
    with place.worker() as worker:
        values = torch.arange(place.size(2**26, 2**10), device=place.torch_device).float()
        alike = torch.equal(worker.all_sum(values), values)
        worker.barrier()
        yield Row("sum over one worker is the same", float(alike), "")
        one = values[:16].clone()
        repeats = place.size(50, 3)
        small = place.seconds(lambda: worker.all_sum(one), repeats, 3)
        yield Row("all_sum of 16 numbers", 1e6 * small, "us")
        large = place.seconds(lambda: worker.all_sum(values), place.size(10, 2))
        yield Row(
            "all_sum, with its copy",
            values.nbytes / large / 1e9,
            "GB/s",
            f"{values.nbytes / 2**20:.0f} MiB",
        )
        yield Row("barrier", 1e6 * place.seconds(worker.barrier, repeats), "us")


class _Fed(NamedTuple):
    """A batch on the device, and what says that it has arrived."""

    images: Tensor
    arrived: Any


@dataclass
class _Feed:
    """Decodes and moves batches to the device in threads, two ahead of the step."""

    place: Place
    encoded: list[bytes]
    side_stream: bool
    """Copy from pinned memory beside the step; else as Ray Data's thread does, in the step's own stream."""

    def batches(self, count: int) -> Iterator[Tensor]:
        """`count` batches (b, 3, h, w), uint8."""
        ready: queue.Queue[_Fed | BaseException] = queue.Queue(maxsize=2)
        thread = threading.Thread(target=self._fill, args=(ready, count), daemon=True)
        thread.start()
        for _ in range(count):
            fed = ready.get()
            if isinstance(fed, BaseException):
                raise fed
            if fed.arrived is not None:
                stream = torch.cuda.current_stream()
                stream.wait_event(fed.arrived)
                fed.images.record_stream(stream)
            yield fed.images
        thread.join()

    def _fill(self, ready: "queue.Queue[_Fed | BaseException]", count: int) -> None:
        try:
            side = torch.cuda.Stream() if self.side_stream and self.place.on_gpu else None
            with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
                for _ in range(count):
                    images = list(pool.map(partial(decode_image, key="noise"), self.encoded))
                    ready.put(self._moved(np.stack(images).transpose(0, 3, 1, 2), side))
        except BaseException as error:
            ready.put(error)

    def _moved(self, images: np.ndarray, side: Any) -> _Fed:
        host = torch.from_numpy(np.ascontiguousarray(images))
        if side is None:
            return _Fed(host.to(self.place.torch_device), None)
        with torch.cuda.stream(side):
            moved = host.pin_memory().to(self.place.torch_device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(side)
        return _Fed(moved, arrived)


def overlap(place: Place) -> Iterator[Row]:
    """A tokenizer's steps on JPEG files that are decoded and moved meanwhile, against images that are there."""
    run = tokenizer_run(place)
    count, steps = run.schedule.micro_batch_size, place.size(6, 2)
    encoded = _jpegs(count, run.model.autoencoder.image_size)
    with place.worker() as worker:
        found = tokenizer_at_work(place, worker, run)
        resident = place.seconds(found.learn, steps, place.size(3, 1))
        yield Row("step on images that are there", resident, "s", f"{count} images")
        alone = _Feed(place, encoded, side_stream=False)
        seconds = place.seconds(lambda: list(alone.batches(2)), 1) / 2
        yield Row("decoding and moving alone", seconds, "s")
        for name, side_stream in (("as Ray Data moves them", False), ("by a side stream", True)):
            feed = _Feed(place, encoded, side_stream)
            fed = place.seconds(partial(_learn_from, found, feed, steps), 1) / steps
            yield Row(f"step on decoded images, {name}", fed, "s")
            yield Row(f"decoded / there, {name}", fed / resident, RATIO)


def _learn_from(found: TokenizerAtWork, feed: _Feed, steps: int) -> None:
    for images in feed.batches(steps):
        batch: Batch = {"image": images}
        found.step.learn([batch], 0)


def _jpegs(count: int, side: int) -> list[bytes]:
    """Smooth noise, about as large as photographs."""
    draw, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found
