"""One view per image and epoch of codes whose values say which image, view, codebook and position they are."""

import threading
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from glotok_ray.data.records import Row, encode_png, write_shard
from glotok_ray.data.shard_parts import read_part
from glotok_ray.data.shard_plan import CHUNK_ROWS, PlanUnit, ShardRows, UnitPart
from glotok_ray.data.training_rows import CodeRows, ImageRows
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError

IMAGES, POSITIONS = 200, 4
CODEBOOKS = {"visual": 30000, "semantic": 60000}


def codes(folder: Path, views: int) -> None:
    """A code of "visual" is 40 * image + 4 * view + position, one of "semantic" 30,000 more."""
    image, view = np.divmod(np.arange(IMAGES * views), views)
    grid = (40 * image + 4 * view)[:, None] + np.arange(POSITIONS)
    columns = {
        "key": [f"image {index}" for index in image],
        "label": (image % 7).astype(np.int32),
        "view": view.astype(np.int8),
    }
    for place, name in enumerate(CODEBOOKS):
        values = (grid + 30000 * place).astype(np.uint16).reshape(-1)
        columns[name] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), POSITIONS)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "part-00000.parquet")


def drawn(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The images and the views of rows."""
    image, rest = np.divmod(rows["visual"][:, 0], 40)
    return image, rest // 4


SHARD = ShardRows("part-00000.parquet", IMAGES)
ORDER = np.random.default_rng(0).permutation(IMAGES)


def unit(epoch: int = 0, start: int = 0, stop: int = IMAGES) -> PlanUnit:
    """Rows in a fixed order, in two parts whose places alternate."""
    rows = ORDER[start:stop]
    places = np.arange(len(rows))
    parts = tuple(UnitPart(SHARD, rows[part::2], places[part::2]) for part in range(2))
    return PlanUnit(epoch, places + 1000, parts)


@pytest.mark.parametrize("views", [1, 2, 10])
def test_both_codebooks_show_the_same_view_of_the_same_image(tmp_path: Path, views: int) -> None:
    codes(tmp_path, views)
    rows = CodeRows(tmp_path, 0, views, CODEBOOKS, 7)(unit())
    image, view = drawn(rows)
    np.testing.assert_array_equal(image, ORDER)
    assert rows["key"] == [f"image {index}" for index in image]
    np.testing.assert_array_equal(rows["position"], np.arange(IMAGES) + 1000)
    assert rows["broken"] == [""] * IMAGES
    assert set(view.tolist()) == set(range(views))
    grid = (40 * image + 4 * view)[:, None] + np.arange(POSITIONS)
    np.testing.assert_array_equal(rows["visual"], grid)
    np.testing.assert_array_equal(rows["semantic"], grid + 30000)
    np.testing.assert_array_equal(rows["label"], image % 7)
    assert (rows["visual"].dtype, rows["label"].dtype) == (np.int32, np.int64)


def test_ten_views_are_drawn_equally_often(tmp_path: Path) -> None:
    codes(tmp_path, 10)
    reader = CodeRows(tmp_path, 0, 10, CODEBOOKS, 7)
    views = np.concatenate([drawn(reader(unit(epoch)))[1] for epoch in range(20)])
    counts = np.bincount(views, minlength=10)
    expected = IMAGES * 20 / 10
    # The chi-square statistic of nine degrees of freedom exceeds 27.9 once in a thousand draws.
    assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_a_view_is_keyed_by_seed_epoch_and_image(tmp_path: Path) -> None:
    codes(tmp_path, 10)

    def views(seed: int, unit: PlanUnit) -> dict[int, int]:
        image, view = drawn(CodeRows(tmp_path, seed, 10, CODEBOOKS, 7)(unit))
        return dict(zip(image.tolist(), view.tolist(), strict=True))

    whole = views(0, unit())
    # Wherever a resumed run starts inside the shard, its images show the same views.
    assert views(0, unit(start=150)).items() <= whole.items()
    for other in (views(0, unit(epoch=1)), views(1, unit())):
        assert sum(other[image] == whole[image] for image in whole) < IMAGES / 4


@pytest.mark.parametrize(
    ("counts", "classes", "message"),
    [
        (
            {**CODEBOOKS, "visual": 7963},
            7,
            r"'visual' holds \d+ to 7963, and dataset\.json allows 0 to 7962",
        ),
        (CODEBOOKS, 6, r"'label' holds 0 to 6, and dataset\.json allows 0 to 5"),
    ],
)
def test_an_index_that_dataset_json_does_not_allow_is_refused(
    tmp_path: Path, counts: dict[str, int], classes: int, message: str
) -> None:
    codes(tmp_path, 1)
    with pytest.raises(ArtefactError, match=rf"part-00000\.parquet: column {message}; encode"):
        CodeRows(tmp_path, 0, 1, counts, classes)(unit())


def images(folder: Path, broken: tuple[int, ...] = ()) -> ShardRows:
    """100 images of 8 pixels whose colour says which they are."""
    rows = []
    for number in range(100):
        image = encode_png(np.full((8, 8, 3), number, dtype=np.uint8))
        rows.append(Row(f"key {number}", b"nothing" if number in broken else image, 0))
    write_shard(folder / "a.parquet", rows)
    return ShardRows("a.parquet", 100)


def reader(folder: Path, *, skip_broken: bool = False) -> ImageRows:
    return ImageRows(folder, 0, 8, "center", False, skip_broken)


def images_unit(shard: ShardRows, rows: list[int]) -> PlanUnit:
    places = np.arange(len(rows))
    return PlanUnit(0, places, (UnitPart(shard, np.array(rows), places),))


def test_pictures_arrive_in_the_unit_s_order(tmp_path: Path) -> None:
    shard = images(tmp_path)
    rows = reader(tmp_path)(images_unit(shard, [99, 3, 64, 31, 32]))
    assert rows["image"][:, 0, 0, 0].tolist() == [99, 3, 64, 31, 32]
    assert rows["key"] == ["key 99", "key 3", "key 64", "key 31", "key 32"]


def test_a_broken_row_stops_the_run_and_is_named(tmp_path: Path) -> None:
    shard = images(tmp_path, broken=(3,))
    with pytest.raises(
        ArtefactError, match=r"a\.parquet: row 'key 3': its image cannot be decoded"
    ):
        reader(tmp_path)(images_unit(shard, [1, 3]))


def test_a_broken_row_is_replaced_by_the_unit_s_next_good_one_where_that_is_allowed(
    tmp_path: Path,
) -> None:
    shard = images(tmp_path, broken=(3, 4, 7))
    rows = reader(tmp_path, skip_broken=True)(images_unit(shard, [1, 3, 4, 5, 7]))
    assert rows["image"][:, 0, 0, 0].tolist() == [1, 5, 5, 5, 1]
    assert [bool(reason) for reason in rows["broken"]] == [False, True, True, False, True]
    assert "a.parquet: row 'key 3'" in rows["broken"][1]
    with pytest.raises(ArtefactError, match=r"none of 2 rows can be used, the first: .*key 3"):
        reader(tmp_path, skip_broken=True)(images_unit(shard, [3, 4]))


def test_only_the_row_groups_of_the_rows_are_read(tmp_path: Path) -> None:
    shard = images(tmp_path)
    path = tmp_path / shard.file
    with pyarrow.parquet.ParquetFile(path) as file:
        assert file.metadata.row_group(0).num_rows == CHUNK_ROWS
        column = file.metadata.row_group(2).column(1)
    # The bytes of the third group's images are destroyed: whoever reads others does not notice.
    damaged = bytearray(path.read_bytes())
    start = column.data_page_offset
    damaged[start : start + column.total_compressed_size] = b"\0" * column.total_compressed_size
    path.write_bytes(damaged)
    assert len(reader(tmp_path)(images_unit(shard, [0, 40, 99]))["key"]) == 3
    with pytest.raises(ArtefactError, match=r"a\.parquet: row 'key 70': .* fail their checksum"):
        reader(tmp_path)(images_unit(shard, [0, 70]))
    with pytest.raises(ArtefactError, match=r"a\.parquet: is damaged"):
        read_part(path, 100, np.array([70]), ["image"], minutes=10)


def test_an_image_of_other_bytes_is_a_broken_row(tmp_path: Path) -> None:
    shard = images(tmp_path)
    path = tmp_path / shard.file
    content = encode_png(np.full((8, 8, 3), 70, dtype=np.uint8))
    # The last byte of a PNG's end: Pillow would read it all the same.
    data = bytearray(path.read_bytes())
    data[data.find(content) + len(content) - 1] ^= 1
    path.write_bytes(data)
    rows = reader(tmp_path, skip_broken=True)(images_unit(shard, [1, 70, 2]))
    assert rows["image"][:, 0, 0, 0].tolist() == [1, 2, 2]
    assert "a.parquet: row 'key 70': the bytes of its image fail" in rows["broken"][1]
    assert rows["broken"][::2] == ["", ""]


def test_codes_of_other_bytes_are_refused(tmp_path: Path) -> None:
    codes(tmp_path, 1)
    path = tmp_path / "part-00000.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(
        table, path, compression="NONE", use_dictionary=False, write_page_checksum=True
    )
    CodeRows(tmp_path, 0, 1, CODEBOOKS, 7)(unit())
    data = bytearray(path.read_bytes())
    data[data.find(np.array([40, 41, 42, 43], np.int32).tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"part-00000\.parquet: is damaged .*CRC"):
        CodeRows(tmp_path, 0, 1, CODEBOOKS, 7)(unit())


def test_shards_of_older_versions_give_the_same_rows(tmp_path: Path) -> None:
    shard = images(tmp_path)
    chosen = images_unit(shard, [99, 3, 64, 31, 32])
    found = reader(tmp_path)(chosen)
    path = tmp_path / shard.file
    table = pyarrow.parquet.read_table(path).replace_schema_metadata(None)
    pyarrow.parquet.write_table(table, path, row_group_size=16)
    older = reader(tmp_path)(chosen)
    np.testing.assert_array_equal(older["image"], found["image"])
    assert older["key"] == found["key"]


def test_a_truncated_file_is_named_at_once(tmp_path: Path) -> None:
    shard = images(tmp_path)
    path = tmp_path / shard.file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtefactError, match=r"a\.parquet: is damaged \(.*restore it"):
        read_part(path, 100, np.arange(3), ["key"], minutes=10)


def test_a_file_of_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    images(tmp_path)
    with pytest.raises(ArtefactError, match=r"holds 100 rows, and dataset\.json says 99"):
        read_part(tmp_path / "a.parquet", 99, np.arange(3), ["key"], minutes=10)


def test_a_file_that_is_away_is_waited_for_and_then_named(tmp_path: Path) -> None:
    images(tmp_path)
    path, hidden = tmp_path / "a.parquet", tmp_path / "hidden"
    path.rename(hidden)
    threading.Timer(0.5, lambda: hidden.rename(path)).start()
    assert read_part(path, 100, np.arange(3), ["key"], minutes=1)["key"].to_pylist() == [
        f"key {number}" for number in range(3)
    ]
    path.rename(hidden)
    with pytest.raises(StorageError, match=r"a\.parquet: reading it failed for 0\.01 minutes"):
        read_part(path, 100, np.arange(3), ["key"], minutes=0.01)
