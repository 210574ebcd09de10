"""Rows drawn from shards: what is read of the files is what is needed, and its bytes are checked."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from glotok_ray.data import shard_reader
from glotok_ray.data.records import Row, ShardInfo, write_shard
from glotok_ray.data.shard_reader import read_chosen_rows, read_drawn_rows, read_shard_rows
from glotok_ray.storage.artefact import ArtefactError

ROWS = [
    Row(f"n{row % 10}/n{row % 10}_{row}.JPEG", np.random.default_rng(row).bytes(4000 + row), row)
    for row in range(400)
]
DRAWN = np.sort(np.random.default_rng(0).choice(400, 20, replace=False))


class Counter:
    """Bytes that were read of files, whoever read them."""

    def __init__(self) -> None:
        self.bytes = 0

    def of(self, read: Callable[[], Any]) -> int:
        """What `read` reads."""
        before = self.bytes
        read()
        return self.bytes - before


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()

    class CountingFile(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            count = super().readinto(buffer)
            counter.bytes += count
            return count

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(-1 if size is None else size)
            counter.bytes += len(found)
            return found

    parquet_file, pread, read_bytes = pyarrow.parquet.ParquetFile, os.pread, Path.read_bytes

    def counted_pread(descriptor: int, size: int, offset: int) -> bytes:
        found = pread(descriptor, size, offset)
        counter.bytes += len(found)
        return found

    def counted_bytes(path: Path) -> bytes:
        found = read_bytes(path)
        counter.bytes += len(found)
        return found

    def opened(path: Any, **options: Any) -> Any:
        return parquet_file(CountingFile(path) if isinstance(path, str | Path) else path, **options)

    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", opened)
    monkeypatch.setattr(os, "pread", counted_pread)
    monkeypatch.setattr(Path, "read_bytes", counted_bytes)
    return counter


@pytest.fixture
def shard(tmp_path: Path) -> ShardInfo:
    return write_shard(tmp_path / "part-00000.parquet", ROWS)


def test_a_twentieth_of_the_rows_is_a_twentieth_of_the_bytes(
    tmp_path: Path, shard: ShardInfo, counter: Counter
) -> None:
    path = tmp_path / shard.file
    size = path.stat().st_size
    read = {
        "whole": lambda: shard_reader.read_shard(tmp_path, shard, minutes=0),
        "drawn": lambda: read_drawn_rows(tmp_path, shard, DRAWN.tolist(), minutes=0),
        "chosen": lambda: read_chosen_rows(path, DRAWN, minutes=0),
        "adjacent": lambda: read_shard_rows(path, 100, 140, minutes=0),
        "row groups": lambda: shard_reader._read_groups(path, DRAWN, ("key", "image", "label")),
    }
    shares = {name: counter.of(each) / size for name, each in read.items()}
    assert shares["whole"] >= 1
    # Row groups hold 32 rows: a random twentieth is in most of them.
    assert shares["row groups"] > 0.6
    # 64 KiB of the file's end are a part of it.
    assert shares["drawn"] < 0.12
    assert shares["chosen"] < 0.12
    assert shares["adjacent"] < 0.21


def test_drawn_rows_are_the_rows(tmp_path: Path, shard: ShardInfo) -> None:
    whole = shard_reader.read_shard(tmp_path, shard, minutes=0)
    for rows in ([0], [31, 32], DRAWN.tolist(), list(range(400))):
        found = read_drawn_rows(tmp_path, shard, rows, minutes=0)
        assert found.equals(whole.take(rows).cast(found.schema))
        assert found.column_names == ["key", "image", "label"]
        assert read_chosen_rows(tmp_path / shard.file, np.array(rows), minutes=0).equals(found)


def test_images_that_are_equal_or_empty_have_places_too(tmp_path: Path) -> None:
    rows = [Row(str(n), image, 0) for n, image in enumerate([b"", b"a", b"aa", b"a", b"", b"aaa"])]
    shard = write_shard(tmp_path / "p.parquet", rows * 20)
    found = read_drawn_rows(tmp_path, shard, list(range(120)), minutes=0)
    assert found["image"].to_pylist() == [row.image for row in rows * 20]


def older(path: Path) -> ShardInfo:
    """The same rows as an older version wrote them: without places and checksums."""
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(None), path, row_group_size=32, compression="NONE"
    )
    return ShardInfo(path.name, 400, hashlib.sha256(path.read_bytes()).hexdigest())


def test_shards_of_older_versions_are_read_whole_and_checked(
    tmp_path: Path, shard: ShardInfo
) -> None:
    before = read_drawn_rows(tmp_path, shard, DRAWN.tolist(), minutes=0)
    shard = older(tmp_path / shard.file)
    found = read_drawn_rows(tmp_path, shard, DRAWN.tolist(), minutes=0)
    assert found.cast(before.schema).equals(before)
    assert read_chosen_rows(tmp_path / shard.file, DRAWN, minutes=0)["key"].equals(found["key"])
    flip(tmp_path / shard.file, ROWS[350].image)
    with pytest.raises(ArtefactError, match=r"part-00000\.parquet: differs from its sha256"):
        read_drawn_rows(tmp_path, shard, DRAWN.tolist(), minutes=0)


def flip(path: Path, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.find(content) + len(content) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_is_noticed_by_who_reads_it_and_at_once(
    tmp_path: Path, shard: ShardInfo
) -> None:
    path = tmp_path / shard.file
    victim = int(DRAWN[3])
    flip(path, ROWS[victim].image)
    # An hour of patience is for storage; damage stays.
    with pytest.raises(ArtefactError, match=rf"differs from its sha256 .*row {victim}: the bytes"):
        read_drawn_rows(tmp_path, shard, DRAWN.tolist(), minutes=60)
    with pytest.raises(ArtefactError, match=rf"is damaged \(row {victim}: .*jobs\.verify"):
        read_chosen_rows(path, DRAWN, minutes=60)
    with pytest.raises(ArtefactError, match=r"is damaged \(.*CRC.*jobs\.verify"):
        read_shard_rows(path, victim, victim + 1, minutes=60)
    rest = [row for row in DRAWN.tolist() if row != victim]
    assert read_drawn_rows(tmp_path, shard, rest, minutes=0).num_rows == 19
