"""The driver of `jobs.shard_images` at ImageNet's size: rows, tasks, receipts and dataset.json of a listing made up.

Read next: benchmarks/source_forms.py
"""

import dataclasses
import pickle
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measured
from glotok_ray.data.listed_source import ListedImages
from glotok_ray.data.listing import SPLITS, VALIDATION_PREFIX, Listing
from glotok_ray.data.records import ShardInfo, write_dataset
from glotok_ray.data.shard_writing import ShardTask, shard_file
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.tar_archives import TarImage
from glotok_ray.data.written_shards import WrittenShard
from glotok_ray.recipes.shard_images import imagenet_256
from glotok_ray.stages import shard_images

CLASSES, VALIDATION_IMAGES, BYTES = 1000, 50_000, 110_000


def listing(number: int, prefix: str, path: str) -> Listing[Any]:
    """So many images of a thousand classes in one tar."""
    classes = tuple(f"n{label:08d}" for label in range(CLASSES))
    images = [
        TarImage(
            f"{prefix}{classes[index % CLASSES]}/{classes[index % CLASSES]}_{index}.JPEG",
            index % CLASSES,
            path,
            index * BYTES,
            BYTES,
        )
        for index in range(number)
    ]
    images.sort(key=lambda image: image.key)
    return Listing(classes, tuple(images), (), "made up")


def driver_case(number: int) -> tuple[Any, Any]:
    """Seconds and memory of what the driver holds and does beside Ray, of `number` training images."""
    facts: dict[str, float] = {}

    def run() -> dict[str, float]:
        config = dataclasses.replace(imagenet_256(), validation_source="val.tar")
        listed, source = measured.seconds_of(lambda: ImageSource(config, _images(config, number)))
        cut, shards = measured.seconds_of(source.shards)
        packed, tasks = measured.seconds_of(lambda: _tasks(config, shards))
        facts["tasks_mib"] = sum(map(len, tasks)) / 2**20
        facts["largest_task_mib"] = max(map(len, tasks)) / 2**20
        finished, size = measured.seconds_of(lambda: _finish(config, source, shards))
        facts["dataset_json_mib"] = size / 2**20
        return {"listed": listed, "cut": cut, "packed": packed, "finished": finished}

    return run, lambda: facts


def _images(config: Any, number: int) -> ListedImages:
    return ListedImages(
        config,
        listing(number, "", "/data/train.tar"),
        listing(VALIDATION_IMAGES, VALIDATION_PREFIX, "/data/val.tar"),
    )


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
