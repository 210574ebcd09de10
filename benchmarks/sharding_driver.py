"""The driver of `jobs.shard_images` at ImageNet's size: rows, tasks, receipts and dataset.json of a listing made up.

Read next: benchmarks/source_forms.py
"""

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import measured
from glotok_ray.data import folders
from glotok_ray.data.folder_entries import ObjectEntry
from glotok_ray.data.listed_source import ListedImages
from glotok_ray.data.listing import SPLITS
from glotok_ray.data.records import ShardInfo, write_dataset
from glotok_ray.data.shard_writing import ShardTask, shard_file
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.written_shards import WrittenShard
from glotok_ray.recipes.shard_images import imagenet_256
from glotok_ray.stages import shard_images
from glotok_ray.storage.object_paths import ObjectStatus

CLASSES, BYTES = 1000, 110_000


def made_up_tree(per_class: int) -> ImageSource:
    """A tree of a thousand class folders as storage lists it, with no file behind it."""
    config = imagenet_256()
    root = Path("/data/imagenet/ILSVRC/Data/CLS-LOC/train")

    def entries(name: str, label: int) -> Iterator[ObjectEntry]:
        for number in range(per_class):
            file = f"{name}_{number:05d}.JPEG"
            status = ObjectStatus(BYTES + number + label, 1, "")
            yield ObjectEntry(file, f"{root}/{name}/{file}", False, status)

    names = [f"n{label:08d}" for label in range(CLASSES)]
    classes = {name: entries(name, label) for label, name in enumerate(names)}
    return ImageSource(
        config, ListedImages(config, folders._Listing(root, "", 0.0).tree(classes, []))
    )


def driver_case(number: int) -> tuple[Any, Any]:
    """Seconds and memory of what the driver holds and does beside Ray, of about `number` images."""
    facts: dict[str, float] = {}

    def run() -> dict[str, float]:
        listed, source = measured.seconds_of(lambda: made_up_tree(-(-number // CLASSES)))
        facts["images"] = source.num_images
        cut, shards = measured.seconds_of(source.shards)
        packed, tasks = measured.seconds_of(lambda: _tasks(source.run, shards))
        facts["tasks_mib"] = sum(map(len, tasks)) / 2**20
        facts["largest_task_mib"] = max(map(len, tasks)) / 2**20
        del tasks  # Of Ray's object store.
        finished, size = measured.seconds_of(lambda: _finish(source.run, source, shards))
        facts["dataset_json_mib"] = size / 2**20
        return {"listed": listed, "cut": cut, "packed": packed, "finished": finished}

    return run, lambda: facts


def _tasks(config: Any, shards: Any) -> list[bytes]:
    """As they are handed to Ray."""
    return [
        pickle.dumps(ShardTask(split, shard_file(config, index), rows))
        for split in SPLITS
        for index, rows in enumerate(shards[split])
    ]


def _finish(config: Any, source: ImageSource, shards: Any) -> int:
    """What the receipts become; returns the bytes of dataset.json."""
    written = {
        split: [
            WrittenShard(ShardInfo(f"{index}", len(rows), "0" * 64), BYTES * len(rows), {}, {}, 0)
            for index, rows in enumerate(shards[split])
        ]
        for split in SPLITS
    }
    losses = shard_images._losses(source, shards, written, config)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(
            Path(folder),
            classes=source.classes,
            form=source.form,
            image_size=0,
            shards=[shard.info for shard in written["train"]],
            details=source.images.details(losses, "train"),
        )
        return (Path(folder) / "dataset.json").stat().st_size
