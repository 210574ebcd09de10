"""Images of Parquet sources are read group by group, and written in the order of the shard."""

import dataclasses
import itertools
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import five_forms
from benchmarks.five_forms import training_images
from glotok_ray.config import ShardRun
from glotok_ray.data import encoding_order, parquet_images
from glotok_ray.data.encoding_order import encoded_rows, times_read
from glotok_ray.data.image_files import StoredImage, UnreadableImageError
from glotok_ray.data.sources import ImageSource
from glotok_ray.stages import shard_images
from tests.small_data import class_tree


class Source:
    """A file that tells when it is read."""

    def __init__(self, key: str, log: list[str]) -> None:
        self.key, self.label, self.size, self.log = key, 0, 1, log

    def encode(self, run: ShardRun) -> StoredImage:
        self.log.append(self.key)
        if self.key == "b":
            raise UnreadableImageError("no image")
        return StoredImage(self.key.encode())


def test_files_are_read_one_by_one_as_they_are_wanted() -> None:
    log: list[str] = []
    rows = encoded_rows([Source(key, log) for key in "cab"], ShardRun())
    assert (next(rows).source.key, log) == ("c", ["c"])
    assert [(row.source.key, row.error) for row in rows] == [("a", ""), ("b", "no image")]


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []
    read_group = parquet_images.pyarrow.parquet.ParquetFile.read_row_group

    def counted(self: Any, group: int, **options: Any) -> Any:
        read.append(group)
        return read_group(self, group, **options)

    monkeypatch.setattr(parquet_images.pyarrow.parquet.ParquetFile, "read_row_group", counted)
    return read


def test_a_group_is_read_once_for_all_of_its_images(
    tmp_path: Path, groups_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = five_forms.write_parquet(tmp_path / "p.parquet", training_images(20), rows_per_group=10)
    run = ShardRun(source=str(path), image_size=0)
    rows = ImageSource.of(run).rows()["train"]
    groups_read.clear()
    found = list(encoded_rows(rows, run))
    assert [row.source for row in found] == rows
    assert groups_read == list(range(6))
    # In the order of the shard each image costs a group.
    parquet_images._images_of.cache_clear()
    groups_read.clear()
    straight = [row.encode(run) for row in rows]
    assert len(groups_read) > 30
    assert [row.stored for row in found] == straight
    # What waits is bounded.
    parquet_images._images_of.cache_clear()
    groups_read.clear()
    monkeypatch.setattr(encoding_order, "WAITING_BYTES", 20 * rows[0].size)
    assert [row.stored for row in encoded_rows(rows, run)] == straight
    assert 6 < len(groups_read) <= 24


def test_how_often_groups_are_read_is_known_before(
    tmp_path: Path, groups_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = training_images(40)
    path = five_forms.write_parquet(tmp_path / "p.parquet", images, rows_per_group=12)
    run = ShardRun(source=str(path), image_size=0, rows_per_shard=20)
    shards = list(itertools.chain.from_iterable(ImageSource.of(run).shards().values()))
    size = [0] * 10
    for row in itertools.chain.from_iterable(shards):
        size[row.group] += row.size  # type: ignore[attr-defined]
    for waiting in (encoding_order.WAITING_BYTES, 7 * shards[0][0].size):
        monkeypatch.setattr(encoding_order, "WAITING_BYTES", waiting)
        groups_read.clear()
        for shard in shards:
            parquet_images._images_of.cache_clear()
            assert not any(row.error for row in encoded_rows(shard, run))
        expected = sum(size[group] for group in groups_read) / sum(size)
        assert times_read(shards) == pytest.approx(expected, rel=1e-9)
        assert expected > 4
    # The rule of the docstring, on average over the seeds.
    monkeypatch.undo()
    found = []
    for seed in range(20):
        source = ImageSource.of(
            ShardRun(source=str(path), image_size=0, rows_per_shard=27, seed=seed)
        )
        found.append(times_read(source.shards()["train"]))
    assert sum(found) / 20 == pytest.approx(4 * (1 - (3 / 4) ** 10.8), rel=0.02)


def test_the_dry_run_says_how_often_and_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = five_forms.write_parquet(tmp_path / "OLD.parquet", training_images(40), rows_per_group=60)
    run = ShardRun(
        source=str(old), image_size=0, rows_per_shard=10, output_path=str(tmp_path / "o")
    )
    with caplog.at_level(logging.WARNING):
        times = shard_images.describe(run)["source_times_read"]
    assert 10 < times < 13
    (line,) = caplog.messages
    assert f"are read {times:.1f} times over" in line
    # The command that it tells.
    command = re.search(r'python -c "(.*)"$', line)
    assert command
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True)
    caplog.clear()
    again = dataclasses.replace(run, source=str(tmp_path / "NEW.parquet"))
    answer = shard_images.describe(again)
    assert 1 < answer["source_times_read"] <= 2
    assert not caplog.messages
    rows = [ImageSource.of(each).rows()["train"] for each in (run, again)]
    assert [row.encode(run) for row in rows[0]] == [row.encode(run) for row in rows[1]]
    # Files are read one by one.
    tree = class_tree(tmp_path / "tree", a=4, b=4)
    assert "source_times_read" not in shard_images.describe(ShardRun(source=str(tree)))
