"""Images of Parquet sources are read group by group, and written in the order of the shard."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import five_forms
from benchmarks.five_forms import training_images
from glotok_ray.config import ShardRun
from glotok_ray.data import encoding_order, parquet_images
from glotok_ray.data.encoding_order import encoded_rows
from glotok_ray.data.image_files import StoredImage, UnreadableImageError
from glotok_ray.data.sources import ImageSource


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
