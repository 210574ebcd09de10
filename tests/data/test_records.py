"""Shards and dataset.json: round trips, equal bytes, and errors that name what is wrong."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from glotok_ray.data.records import (
    SCHEMA,
    Row,
    decode_image,
    encode_png,
    read_dataset,
    read_rows,
    write_dataset,
    write_shard,
)
from glotok_ray.storage.artefact import ArtefactError


def pixels(seed: int, shape: tuple[int, int] = (5, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def rows(count: int) -> list[Row]:
    return [Row(f"ü/{index}", encode_png(pixels(index)), index % 2) for index in range(count)]


def dataset(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shards = [write_shard(folder / f"part-{part:05d}.parquet", rows(count)) for part in range(2)]
    write_dataset(
        folder,
        classes=["a", "b"],
        form="crop",
        image_size=8,
        shards=shards,
        details={"unreadable": []},
    )
    return folder


def change(folder: Path, **values: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_rows_survive_over_several_row_groups(tmp_path: Path) -> None:
    info = write_shard(tmp_path / "part-00000.parquet", iter(rows(205)))
    assert (info.file, info.rows) == ("part-00000.parquet", 205)
    assert list(read_rows(tmp_path / info.file)) == rows(205)
    with pyarrow.parquet.ParquetFile(tmp_path / info.file) as file:
        assert file.schema_arrow == SCHEMA
        assert file.num_row_groups == 7
    assert [path.name for path in tmp_path.iterdir()] == [info.file]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (write_shard(tmp_path / name, rows(4)) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    assert write_shard(tmp_path / "two", rows(3)).sha256 != one.sha256


def test_a_shard_without_rows_is_a_shard(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "empty", []).rows == 0
    assert list(read_rows(tmp_path / "empty")) == []


def test_png_is_lossless_and_decoding_gives_rgb() -> None:
    np.testing.assert_array_equal(decode_image(encode_png(pixels(1)), "k"), pixels(1))
    stream = io.BytesIO()
    Image.fromarray(pixels(1)[:, :, 0]).save(stream, "PNG")
    gray = decode_image(stream.getvalue(), "k")
    assert gray.flags.writeable
    np.testing.assert_array_equal(gray, np.repeat(pixels(1)[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("encoded", [b"", b"no image", encode_png(pixels(0, (64, 64)))[:3000]])
def test_a_row_that_cannot_be_decoded_is_named(encoded: bytes) -> None:
    with pytest.raises(ArtefactError, match="row 'cat/7'"):
        decode_image(encoded, "cat/7")


def test_dataset_round_trip(tmp_path: Path) -> None:
    info = read_dataset(dataset(tmp_path / "d"), verify=True)
    assert (info.kind, info.classes, info.num_images) == ("shards", ("a", "b"), 6)
    assert (info.form, info.image_size, info.num_views, info.num_unreadable) == ("crop", 8, 1, 0)
    assert [shard.rows for shard in info.shards] == [3, 3]


def test_codes_are_described_too(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    change(
        folder,
        kind="codes",
        num_images=3,
        num_views=2,
        grid_size=4,
        tokenizer_sha256="ab",
        codebooks={"visual": 9, "semantic": 5},
    )
    info = read_dataset(folder)
    assert (info.num_views, info.grid_size, info.tokenizer_sha256) == (2, 4, "ab")
    assert info.code_counts == {"visual": 9, "semantic": 5}
    change(folder, num_views=1)
    with pytest.raises(ArtefactError, match="num_images = 3 with 1 rows per image"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "teacher"}, "kind = 'teacher'"),
        ({"kind": "codes"}, "no field 'num_views'"),
        ({"classes": "ab"}, "classes = 'ab': must be of type list"),
        ({"classes": ["a", "a"]}, "classes must be distinct"),
        ({"num_images": 7}, "num_images = 7 .* hold 6 rows"),
        ({"num_images": True}, "num_images = True"),
        ({"shards": [{"file": "part-00000.parquet", "rows": 6}]}, "no field 'sha256'"),
        ({"shards": [{"file": "../x", "rows": 6, "sha256": ""}]}, "plain name"),
        ({"shards": [{"file": "part-9", "rows": 6, "sha256": ""}]}, "part-9: listed .* missing"),
        ({"shards": []}, "hold 0 rows"),
        ({"form": 3}, "form = 3: must be of type str"),
        ({"form": "square"}, "form = 'square' with image_size = 8: must be 'original' with 0"),
        ({"form": "original"}, "form = 'original' with image_size = 8: must be"),
        ({"form": "reduced", "image_size": 0}, "form = 'reduced' with image_size = 0: must be"),
        ({"unreadable": 3}, "unreadable = 3: must be of type list"),
    ],
)
def test_errors_name_the_field(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    folder = dataset(tmp_path / "d")
    change(folder, **values)
    with pytest.raises(ArtefactError, match=message):
        read_dataset(folder)


def test_forms_and_losses_are_read(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    change(folder, form="original", image_size=0, unreadable=[{"file": "a", "reason": "b"}])
    info = read_dataset(folder)
    assert (info.form, info.image_size, info.num_unreadable) == ("original", 0, 1)
    change(folder, form="reduced", image_size=5)
    assert read_dataset(folder).form == "reduced"


def test_shards_of_before_this_field_are_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    values = json.loads((folder / "dataset.json").read_text())
    del values["form"]
    (folder / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(ArtefactError, match=r"no field 'form'.* again with --fresh"):
        read_dataset(folder)


def test_folders_say_how_many_of_their_pictures_are_not_as_their_files_are(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    assert (read_dataset(folder).num_turned, read_dataset(folder).num_changed) == (0, 0)
    change(folder, upright=True, num_turned=2)
    with pytest.raises(ArtefactError, match=r"no field 'num_changed'.* again with --fresh"):
        read_dataset(folder)
    change(folder, upright=True, num_turned=2, num_changed=1)
    info = read_dataset(folder)
    assert (info.num_turned, info.num_changed) == (2, 1)
    change(folder, num_turned="two")
    with pytest.raises(ArtefactError, match="num_turned = 'two': must be of type int"):
        read_dataset(folder)


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"dataset\.json"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(ArtefactError, match="JSON object"):
        read_dataset(tmp_path)


def test_verify_finds_a_damaged_shard(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    path = folder / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    read_dataset(folder)
    with pytest.raises(ArtefactError, match=r"part-00001\.parquet: differs from its sha256"):
        read_dataset(folder, verify=True)


def test_columns_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"key": ["a"], "image": [b""], "label": [1]}), path)
    with pytest.raises(ArtefactError, match="column 'label' is of type int64"):
        list(read_rows(path))
    path.write_bytes(b"nothing")
    with pytest.raises(ArtefactError, match="cannot be read as Parquet"):
        list(read_rows(path))
