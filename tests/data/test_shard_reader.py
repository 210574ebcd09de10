"""Rows of shards: read, checked and decoded ahead of the caller."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glotok_ray.data.records import read_dataset
from glotok_ray.data.shard_reader import (
    decoded_rows,
    read_chosen_rows,
    read_labels,
    read_shard,
    read_shard_rows,
    view_batches,
)
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError
from tests.small_data import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("reader") / "shards", broken=(2, 5))


def test_rows_are_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "grouped.parquet"
    table = pyarrow.table({"key": [str(row) for row in range(10)], "image": [b"x"] * 10})
    pq.write_table(table, path, row_group_size=3)
    for start, stop in ((0, 3), (2, 4), (5, 10), (9, 10)):
        keys = read_shard_rows(path, start, stop, minutes=0)["key"].to_pylist()
        assert keys == [str(row) for row in range(start, stop)]
    assert read_shard_rows(path, 2, 4, minutes=0, columns=["image"]).column_names == ["image"]
    for rows in ([0], [2, 3], [1, 4, 5, 9], [0, 8, 9], list(range(10))):
        keys = read_chosen_rows(path, np.array(rows), minutes=0)["key"].to_pylist()
        assert keys == [str(row) for row in rows]
    with pytest.raises(StorageError, match=r"absent\.parquet: reading it failed"):
        read_shard_rows(tmp_path / "absent.parquet", 0, 1, minutes=0)


def test_a_shard_is_read_whole_and_refused_when_it_has_changed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    shard = read_dataset(folder).shards[2]
    assert read_shard(folder, shard, minutes=0)["key"].to_pylist() == [f"2/{n}" for n in range(12)]
    assert read_labels(folder, shard, minutes=0).tolist() == [0, 1, 2] * 4
    (folder / shard.file).write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"part-00002\.parquet: differs from its sha256"):
        read_shard(folder, shard, minutes=0)


def corner(image: np.ndarray) -> np.ndarray:
    return image[np.newaxis, :2, :2]


def test_a_row_that_cannot_be_decoded_is_told_in_its_place_and_ends_batches(shards: Path) -> None:
    rows = pq.read_table(shards / "part-00001.parquet")
    found = list(decoded_rows(rows, corner, num_threads=2, ahead=3))
    assert [row.key for row in found] == [f"1/{row}" for row in range(10)]
    assert [row.key for row in found if row.views is None] == ["1/2", "1/5"]
    assert "row '1/5': its image cannot be decoded" in str(found[5].error)
    batches = view_batches(rows, corner, 1, batch_size=2, num_threads=2)
    assert len(next(batches)) == 2
    with pytest.raises(ArtefactError, match="row '1/2': its image cannot be decoded"):
        next(batches)


def test_views_are_prepared_about_one_batch_ahead(shards: Path) -> None:
    rows = pq.read_table(shards / "part-00000.parquet")
    seen = []

    def five_marked(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.stack([image[:2, :2] // 2 + view for view in range(5)])

    batches = view_batches(rows, five_marked, 5, batch_size=7, num_threads=1)
    first = next(batches)
    # Two images fill the batch of seven views; two more fill the next one, and one occupies the thread.
    assert len(seen) <= 2 + 2 + 1
    found = [first, *batches]
    assert [len(batch) for batch in found] == [7] * 10
    decoded = [np.asarray(Image.open(io.BytesIO(image))) for image in rows["image"].to_pylist()]
    expected = [image[:2, :2] // 2 + view for image in decoded for view in range(5)]
    np.testing.assert_array_equal(np.concatenate(found), np.stack(expected))
