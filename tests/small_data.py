"""The smallest data sets and actor pool of the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from glotok_ray.config import PoolConfig
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.storage import artefact

ROWS = (14, 10, 12)
"""Rows of each shard of `write_shards`."""


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
"""How a file of a format begins that is not read."""


def class_tree(root: Path, **classes: int) -> Path:
    """A folder with one sub-folder per class, each of so many images of 20 x 16 pixels."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (20, 16), (index, 0, 0)).save(root / name / f"{index:02d}.png")
    return root


def small_pool(num_actors: int = 1, batch_size: int = 8) -> PoolConfig:
    """Actors of half a CPU and one thread, so that several fit any machine."""
    return PoolConfig(
        num_actors=num_actors,
        use_gpu=False,
        cpus_per_actor=0.5,
        threads_per_actor=1,
        batch_size=batch_size,
    )


def write_shards(folder: Path, broken: tuple[int, ...] = ()) -> Path:
    """36 images of 64 pixels and three classes in three shards; rows `broken` of the second hold no image."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    shards = []
    for index, count in enumerate(ROWS):
        coarse = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
        rows = [
            Row(
                f"{index}/{row}",
                b"no image" if index == 1 and row in broken else encode_png(pixels[row]),
                row % 3,
            )
            for row in range(count)
        ]
        shards.append(write_shard(folder / f"part-{index:05d}.parquet", rows))
    write_dataset(
        folder, classes=["a", "b", "c"], form="crop", image_size=64, shards=shards, details={}
    )
    artefact.write_manifest(folder, "shards")
    return folder
