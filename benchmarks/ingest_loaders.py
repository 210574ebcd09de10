"""The loaders of benchmarks/ingest.py: each gives uint8 batches (64, 3, 256, 256) of the same images and crops.

All decode on two cores: two threads, two worker processes or two tasks. Read next: benchmarks/ingest.py
"""

import collections
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.ingest_data import ROWS_PER_SHARD, shard_files
from glotok_ray.data.records import read_rows
from glotok_ray.data.shard_plan import Division, ShardPlan, ShardRows
from glotok_ray.data.training_crops import CropPlace, CropRule, Decoding, ImageSize, crop_function
from glotok_ray.data.training_rows import ImageRows
from glotok_ray.data.transforms import row_generator

BATCH, SIZE, CORES, SEED = 64, 256, 2, 0
RULE = CropRule(SIZE, "random", horizontal_flip=True)
DIVISION = Division(num_workers=1, micro_batch_size=BATCH, unit_rows=256)

# As on Linux where nobody chooses; processes that were spawned themselves would spawn theirs.
WORKERS: Any = {"num_workers": CORES, "multiprocessing_context": "fork"}

Batches = Iterator[Any]


class Case(NamedTuple):
    """One loader and its way of decoding."""

    loader: str
    decoding: Decoding
    form: str = ""
    """The folder that it reads where that is not its own."""

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{LOADERS[self.loader].title}, {self.decoding}" + (
            ", resized once" if self.form == "resized" else ""
        )


class Crop:
    """From a file's bytes to a crop; the same in every loader."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding: Decoding = decoding

    def __call__(self, encoded: bytes, key: str) -> np.ndarray:
        """The crop of a row, uint8 (3, 256, 256)."""

        def place_of(picture: ImageSize) -> CropPlace:
            return RULE.place(picture, row_generator(SEED, 0, key))

        return crop_function(self.decoding)(encoded, key, place_of)


# ---------------------------------------------------------------------------------------- the bound


def bare_batches(folder: Path, decoding: Decoding) -> Batches:
    """Two threads that decode what is in memory into arrays, and nothing else."""
    crop = Crop(decoding)
    rows = [row for file in shard_files(folder)[:2] for row in read_rows(file)]

    def batch(number: int) -> np.ndarray:
        images = np.empty((BATCH, 3, SIZE, SIZE), np.uint8)
        for place in range(BATCH):
            row = rows[(number * BATCH + place) % len(rows)]
            images[place] = crop(row.image, row.key)
        return images

    with ThreadPoolExecutor(CORES) as threads:
        waiting = collections.deque(threads.submit(batch, number) for number in range(CORES))
        for number in itertools.count(CORES):
            done = waiting.popleft().result()
            waiting.append(threads.submit(batch, number))
            yield done


# ---------------------------------------------------------------------------------------- ours


def _plan(folder: Path, num_shards: int | None = None) -> ShardPlan:
    files = shard_files(folder)[:num_shards]
    shards = tuple(ShardRows(file.name, ROWS_PER_SHARD) for file in files)
    steps = len(shards) * ROWS_PER_SHARD // BATCH
    return ShardPlan(shards, SEED, BATCH, steps_per_epoch=steps, open_shards=8)


def _reader(folder: Path, decoding: Decoding) -> ImageRows:
    return ImageRows(folder, SEED, SIZE, RULE.crop, RULE.horizontal_flip, decoding=decoding)


def trainer_batches(folder: Path, decoding: Decoding, num_shards: int | None = None) -> Batches:
    """Ours, in the trainer's threads, from all shards or the first few."""
    from glotok_ray.training import trainer_feed

    plan = _plan(folder, num_shards)
    return trainer_feed.trainer_batches(
        plan,
        DIVISION,
        _reader(folder, decoding),
        worker=0,
        steps=range(plan.steps_per_epoch),
        device=torch.device("cpu"),
        num_threads=CORES,
    )


def ray_batches(folder: Path, decoding: Decoding) -> Batches:
    """Ours, in tasks of Ray Data, on a cluster of two CPUs that is there already."""
    from glotok_ray.on_ray.data import worker_batches
    from glotok_ray.on_ray.windows import Feed, start_ingest

    plan = _plan(folder)
    feed = Feed(plan, DIVISION, plan.steps_per_epoch)
    ingest = start_ingest(feed, _reader(folder, decoding), {})
    return worker_batches(ingest, feed, worker=0, first_step=0, device=torch.device("cpu"))


def start_cluster() -> None:
    """A private cluster."""
    from glotok_ray.on_ray import cluster

    cluster.connect(logical_cpus=CORES)


# ---------------------------------------------------------------------------------------- others


def folder_batches(folder: Path, decoding: Decoding) -> Batches:
    """torch's DataLoader on torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    crop = Crop(decoding)

    def load(path: str) -> torch.Tensor:
        return torch.from_numpy(crop(Path(path).read_bytes(), Path(path).stem).copy())

    images = ImageFolder(str(folder), loader=load)
    return iter(DataLoader(images, BATCH, shuffle=True, **WORKERS))


def webdataset_batches(folder: Path, decoding: Decoding) -> Batches:
    """The webdataset package."""
    import webdataset

    crop = Crop(decoding)

    def load(sample: dict[str, Any]) -> np.ndarray:
        return crop(sample["jpg"], sample["__key__"]).copy()

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    images = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(100).map(load)
    batched = images.batched(BATCH, partial=False)
    return iter(webdataset.WebLoader(batched, batch_size=None, **WORKERS))


def streaming_batches(folder: Path, decoding: Decoding) -> Batches:
    """mosaicml-streaming."""
    import streaming
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    crop = Crop(decoding)

    class Images(streaming.StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            row = super().__getitem__(at)
            return torch.from_numpy(crop(row["image"], row["key"]).copy())

    images = Images(local=str(folder), batch_size=BATCH, shuffle=True, shuffle_seed=SEED)
    return iter(DataLoader(images, BATCH, **WORKERS))


class Loader(NamedTuple):
    """How a loader is called and what it needs."""

    title: str
    batches: Callable[[Path, Decoding], Batches]
    form: str
    package: str = ""
    """What must be installed."""
    prepare: Callable[[], None] | None = None
    """Called once per process, before the first round."""


LOADERS = {
    "bare": Loader("bare loop of two threads", bare_batches, "shards"),
    "trainer": Loader("ours, trainer's threads", trainer_batches, "shards"),
    "ray": Loader("ours, Ray Data", ray_batches, "shards", prepare=start_cluster),
    "folders": Loader("DataLoader + ImageFolder", folder_batches, "folders"),
    "webdataset": Loader("webdataset", webdataset_batches, "tars", "webdataset"),
    "streaming": Loader("mosaicml-streaming", streaming_batches, "mds", "streaming"),
}

CASES = (
    *(Case(loader, "exact") for loader in LOADERS),
    *(Case(loader, "fast") for loader in LOADERS),
    *(Case(loader, "fast", "resized") for loader in ("bare", "trainer", "ray")),
)


def is_installed(case: Case) -> bool:
    """Whether the loader's package is there."""
    package = LOADERS[case.loader].package
    return not package or importlib.util.find_spec(package) is not None


def batches(case: Case, folder: Path) -> Batches:
    """A fresh stream of a case's batches."""
    loader = LOADERS[case.loader]
    return loader.batches(folder / (case.form or loader.form), case.decoding)
