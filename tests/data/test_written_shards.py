"""Receipts of written shards: what is whole is not written again, and nothing else is taken for it."""

import json
from pathlib import Path

import pytest

from glotok_ray.config import ShardRun
from glotok_ray.data.image_files import StoredImage, UnreadableImageError
from glotok_ray.data.written_shards import finished_shard, receipt_of
from glotok_ray.stages.shard_images import ShardTask, write_task


class Source:
    """Counts how often it is read."""

    def __init__(self, key: str, *, damaged: bool = False) -> None:
        self.key, self.label, self.size = key, 0, 1
        self.damaged, self.reads = damaged, 0

    def encode(self, run: ShardRun) -> StoredImage:
        self.reads += 1
        if self.damaged:
            raise UnreadableImageError("no image")
        return StoredImage(self.key.encode() * 50)


@pytest.fixture
def task(tmp_path: Path) -> ShardTask:
    sources = [Source("a"), Source("b", damaged=True), Source("c")]
    return ShardTask(str(tmp_path), "part-00000.parquet", sources)


def reads(task: ShardTask) -> list[int]:
    return [source.reads for source in task.sources]


def test_a_finished_shard_is_not_written_again(task):
    first = write_task(task, ShardRun())
    assert (first.info.rows, first.unreadable) == (2, {"b": "no image"})
    assert write_task(task, ShardRun()) == first
    assert reads(task) == [1, 1, 1]


def test_a_shard_without_rows_is_finished_too(tmp_path):
    task = ShardTask(str(tmp_path), "part-00000.parquet", [Source("b", damaged=True)])
    first = write_task(task, ShardRun())
    assert first.info.rows == 0
    assert write_task(task, ShardRun()) == first
    assert reads(task) == [1]


def flipped(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def without_a_field(shard: Path) -> None:
    facts = json.loads(receipt_of(shard).read_text())
    del facts["turned"]
    receipt_of(shard).write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        without_a_field,
        Path.unlink,
        lambda shard: shard.write_bytes(shard.read_bytes()[:-1]),
        lambda shard: receipt_of(shard).write_text("{"),
        lambda shard: receipt_of(shard).write_text("[]"),
        lambda shard: receipt_of(shard).unlink(),
    ],
)
def test_what_is_damaged_is_written_again(task, damage):
    first = write_task(task, ShardRun())
    shard = Path(task.folder) / task.file
    damage(shard)
    assert finished_shard(shard) is None
    assert write_task(task, ShardRun()) == first
    assert reads(task) == [2, 2, 2]
    assert finished_shard(shard) == first
