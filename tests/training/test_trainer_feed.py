"""Rows decoded in the trainer's own threads: those of the plan, from any step, in bounded memory; errors by name."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from glotok_ray.data.records import Row, encode_png, write_shard
from glotok_ray.data.shard_plan import Division, ShardPlan, ShardRows
from glotok_ray.data.training_rows import ImageRows
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.trainer_feed import trainer_batches

ROWS = 40
NAMES = {"key": "keys", "broken": "broken"}
DIVISION = Division(num_workers=2, micro_batch_size=3, unit_rows=24)


def plan(epoch_steps: int, shards: tuple[ShardRows, ...]) -> ShardPlan:
    return ShardPlan(shards, seed=3, batch_size=12, steps_per_epoch=epoch_steps, open_shards=2)


def shards(folder: Path, number: int, broken: tuple[str, ...] = ()) -> tuple[ShardRows, ...]:
    draw, found = np.random.default_rng(0), []
    for shard in range(number):
        keys = [f"{shard}/{row}" for row in range(ROWS)]
        pixels = draw.integers(0, 256, (ROWS, 20, 24, 3), dtype=np.uint8)
        rows = [
            Row(key, b"nothing" if key in broken else encode_png(image), 0)
            for key, image in zip(keys, pixels, strict=True)
        ]
        write_shard(folder / f"{shard}.parquet", rows)
        found.append(ShardRows(f"{shard}.parquet", ROWS))
    return tuple(found)


def reader(folder: Path, *, size: int = 16, skip_broken: bool = True) -> ImageRows:
    return ImageRows(folder, 5, size, "random", True, skip_broken)


def taken(order: ShardPlan, rows: ImageRows, worker: int, steps: range) -> list[MicroBatch]:
    stream = trainer_batches(
        order,
        DIVISION,
        rows,
        worker=worker,
        steps=steps,
        device=torch.device("cpu"),
        num_threads=3,
    )
    return list(stream)


def test_batches_are_the_reader_s_units_from_any_step(tmp_path: Path) -> None:
    order = plan(13, shards(tmp_path, 4, broken=("1/7", "2/30")))
    rows, last, seen = reader(tmp_path), 2 * 13 + 4, []
    for worker, first in itertools.product(range(2), (0, 17)):
        found = taken(order, rows, worker, range(first, last))
        units = list(order.units(first, last, DIVISION))[worker::2]
        read = [rows(unit) for unit in units]
        images = np.concatenate([columns["image"] for columns in read])
        assert len(found) == 2 * (last - first)
        np.testing.assert_array_equal(torch.cat([b.tensors["image"] for b in found]), images)
        for name in ("key", "broken"):
            told = [text for batch in found for text in getattr(batch, NAMES[name])]
            assert told == [text for columns in read for text in columns[name]]
        seen += [reason for batch in found for reason in batch.broken if reason]
        assert {tuple(b.tensors) for b in found} == {("image",)}
    assert seen


def test_a_broken_row_that_is_not_allowed_names_its_file(tmp_path: Path) -> None:
    order = plan(6, shards(tmp_path, 2, broken=("0/7", "1/7")))
    rows = reader(tmp_path, skip_broken=False)
    with pytest.raises(ArtefactError, match=r"(\d)\.parquet: row '\1/7': its image cannot"):
        taken(order, rows, 0, range(2 * 6))


def test_a_consumer_that_stops_ends_the_reading(tmp_path: Path) -> None:
    order = plan(13, shards(tmp_path, 4))
    steps = range(13 * 500)
    stream = trainer_batches(
        order,
        DIVISION,
        reader(tmp_path),
        worker=0,
        steps=steps,
        device=torch.device("cpu"),
        num_threads=2,
    )
    next(stream)
    stream.close()


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    files = shards(tmp_path, 60)
    peaks = []
    for number in (12, 60):
        steps = number * ROWS // 12
        order, rows = plan(steps, files[:number]), reader(tmp_path, size=64)
        tracemalloc.start()
        for _ in trainer_batches(
            order,
            DIVISION,
            rows,
            worker=0,
            steps=range(steps),
            device=torch.device("cpu"),
            num_threads=2,
        ):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # How far threads are ahead at a moment differs from run to run by a third.
    assert peaks[1] < 2 * peaks[0], peaks
