"""Damage in archives: what is an image's own costs that image, what is an archive's ends in one line that names it."""

import io
import logging
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from benchmarks import five_forms
from benchmarks.five_forms import bomb, jpeg, training_images, write_tar
from glotok_ray.config import ShardRun
from glotok_ray.data.sources import ImageSource
from glotok_ray.stages import shard_images
from glotok_ray.stages.shard_images import ShardTask, WrittenShard, write_task


def source_of(**fields: Any) -> ImageSource:
    return ImageSource.of(ShardRun(**{"image_size": 0, "upright": False, **fields}))


def written(source: ImageSource, folder: Path) -> WrittenShard:
    rows = [row for each in source.rows().values() for row in each]
    return write_task(ShardTask(str(folder), "all.parquet", rows), source.run)


BAD_IMAGES = {
    "text.jpg": (b"no image at all", "no image of a format that is read"),
    "bomb.png": (bomb(), "more than 178956970 pixels"),
    "flipped.jpg": (b"\x00" + jpeg(0)[1:], "no image of a format that is read"),
    "empty.jpg": (b"", "no image of a format that is read"),
}


def bad_images() -> dict[str, dict[str, bytes]]:
    good = training_images(2, ["n01440764", "n01443537"])
    bad = {name: content for name, (content, _) in BAD_IMAGES.items()}
    return {**good, "n01440764": {**good["n01440764"], **bad}}


def as_webdataset(root: Path, images: dict[str, dict[str, bytes]]) -> Path:
    members = []
    for synset, files in images.items():
        for name, content in files.items():
            members += [(name, content), (f"{Path(name).stem}.txt", synset.encode())]
    return write_tar(root / "w.tar", members)


def as_parquet(root: Path, images: dict[str, dict[str, bytes]]) -> Path:
    return five_forms.write_parquet(root / "p.parquet", images, names=tuple(sorted(images)))


def as_train_tar(root: Path, images: dict[str, dict[str, bytes]]) -> Path:
    return five_forms.write_train_tar(root / "train.tar", images)


@pytest.mark.parametrize("write", [as_train_tar, as_webdataset, as_parquet])
def test_an_image_that_cannot_be_read_costs_itself(tmp_path: Path, write: Any) -> None:
    source = source_of(source=str(write(tmp_path, bad_images())))
    found = written(source, tmp_path)
    assert found.info.rows == 4
    assert set(found.unreadable) == {f"n01440764/{name}" for name in BAD_IMAGES}
    for name, (_, reason) in BAD_IMAGES.items():
        assert reason in found.unreadable[f"n01440764/{name}"]
        assert "\n" not in found.unreadable[f"n01440764/{name}"]


def odd_members(path: Path, *, label: str) -> Path:
    """A tar of two good images, and of members that no image should have."""
    with tarfile.open(path, "w") as archive:
        for name in ("good.jpg", "/abs.jpg", "../up.jpg", "a/../../up.jpg", "fine.jpg", "._x.jpg"):
            for member, content in ((name, jpeg(1)), (name[:-3] + "cls", label.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("device.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return path


def test_unsafe_members_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = odd_members(tmp_path / "odd.tar", label="7")
    with caplog.at_level(logging.WARNING):
        run = ShardRun(source=str(path), output_path=str(tmp_path / "o"), image_size=0)
        answer = shard_images.describe(run)
    assert answer["images"] == {"train": 1, "validation": 1}
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "6 with an unsafe path (e.g. odd.tar: ../up.cls)" in warning
    assert "2 links, devices or sparse files (e.g. odd.tar: device.jpg)" in warning
    assert written(source_of(source=str(path)), tmp_path).unreadable == {}
    # A whole class behind an unsafe name.
    outer = write_tar(
        tmp_path / "train.tar",
        [("../a.tar", b""), *((f"{name}.tar", path.read_bytes()) for name in "bc")],
    )
    source = source_of(source=str(outer))
    assert source.classes == ("b", "c")
    kinds = {item.kind: item.examples for item in source.left_out}
    assert "train.tar: ../a.tar" in kinds["with an unsafe path"]
    assert "train.tar/b.tar: /abs.jpg" in kinds["with an unsafe path"]


def test_archives_that_are_cut_off_are_named(tmp_path: Path) -> None:
    for number in range(3):
        members = [("0.jpg", jpeg(number)), ("0.cls", b"1")]
        write_tar(tmp_path / "w" / f"{number}.tar", members)
    second = tmp_path / "w" / "1.tar"
    whole = second.read_bytes()
    with tarfile.open(second) as archive:
        label = archive.getmembers()[1]
    for size, reason in (
        (700, "unexpected end of data; last member: 0.jpg"),
        (label.offset + 100, "no end mark; last member: 0.jpg"),
        (label.offset_data, "unexpected end of data; last member: 0.cls"),
        (label.offset_data + 512, "no end mark; last member: 0.cls"),
        (100, "truncated header; last member: none"),
        (0, "empty file; last member: none"),
    ):
        second.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"source = .*w': 1\.tar: is cut off") as error:
            source_of(source=str(tmp_path / "w"))
        assert f"1.tar: is cut off or damaged ({reason})" in str(error.value)
        assert "\n" not in str(error.value)
    # A header with a flipped byte is no end.
    flipped = bytearray(whole)
    flipped[label.offset] ^= 1
    second.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"1\.tar: is cut off or damaged \(no end mark"):
        source_of(source=str(tmp_path / "w"))


def test_a_class_s_archive_that_is_cut_off_is_named(tmp_path: Path) -> None:
    images = training_images(3)
    inner = [
        (f"{name}.tar", write_tar(tmp_path / "i.tar", files.items()).read_bytes())
        for name, files in images.items()
    ]
    inner[1] = (inner[1][0], inner[1][1][:1600])
    path = write_tar(tmp_path / "train.tar", inner)
    with pytest.raises(ValueError, match=r"train\.tar/n01443537\.tar: is cut off or damaged"):
        source_of(source=str(path))
    whole = five_forms.write_train_tar(tmp_path / "train.tar", images).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train\.tar: is cut off or damaged .*again$"):
        source_of(source=str(path))
    path.write_bytes(b"no tar at all")
    with pytest.raises(ValueError, match=r"train\.tar: is cut off or damaged"):
        source_of(source=str(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.cls", b"3.7"),
        ("x.cls", b"-1"),
        ("x.cls", b""),
        ("x.cls", b"\xff\xfe\x00"),
        ("x.json", b'{"label": [1]}'),
        ("x.json", b'{"label": true}'),
        ("x.json", b"{"),
        ("x.json", b'{"other": 1}'),
        ("x.txt", b"a\x07b"),
        ("x.md", b"1"),
    ],
)
def test_a_label_of_a_wrong_type_costs_its_image(tmp_path: Path, name: str, content: bytes) -> None:
    good = [
        (f"{i}.{suffix}", each) for i in "ab" for suffix, each in (("jpg", jpeg(1)), ("cls", b"1"))
    ]
    path = write_tar(tmp_path / "w.tar", [*good, ("x.jpg", jpeg(2)), (name, content)])
    source = source_of(source=str(path))
    assert source.num_images == 2
    unlabelled = next(item for item in source.left_out if "label" in item.kind)
    assert unlabelled.examples == ["w.tar: x.jpg"]


def test_parquet_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    image = [{"bytes": jpeg(0), "path": "0.jpg"}] * 4
    for columns, reason in (
        ({"image": image, "label": ["cat"] * 4}, "column 'label' is of type string; must be"),
        ({"image": [1] * 4, "label": [0] * 4}, "column 'image' is of type int64; must be"),
        ({"image": image}, "has no column 'label', only image"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(ValueError, match=rf"p\.parquet: {reason}"):
            source_of(source=str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"p\.parquet: .*; bring a file of Hugging Face's form"):
        source_of(source=str(path))


def test_rows_of_parquet_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    image = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(6)]
    image[1] = {"bytes": None, "path": "1.jpg"}
    labels = [0, 0, -1, None, 0, 0]
    pyarrow.parquet.write_table(pyarrow.table({"image": image, "label": labels}), path)
    source = source_of(source=str(path))
    assert [(item.files, item.kind) for item in source.left_out] == [
        (2, "images without a usable label")
    ]
    found = written(source, tmp_path)
    assert found.info.rows == 3
    assert list(found.unreadable) == ["0/1.jpg"]
    assert "the row has no bytes" in found.unreadable["0/1.jpg"]


def test_damaged_pages_of_parquet_cost_their_rows_at_once(tmp_path: Path) -> None:
    path = five_forms.write_parquet(tmp_path / "p.parquet", training_images(5), rows_per_group=5)
    source = source_of(source=str(path), storage_retry_minutes=60.0)
    whole = bytearray(path.read_bytes())
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    assert column.path_in_schema == "image.bytes"
    start = column.dictionary_page_offset or column.data_page_offset
    whole[start : start + 40] = b"\xff" * 40
    path.write_bytes(whole)
    found = written(source, tmp_path)
    assert found.info.rows == 10
    assert len(found.unreadable) == 5
    assert all(
        "row group 1 of p.parquet cannot be read" in text for text in found.unreadable.values()
    )
    assert not any("\n" in text for text in found.unreadable.values())


def test_a_tar_that_shrinks_later_costs_what_is_gone(tmp_path: Path) -> None:
    path = as_webdataset(tmp_path, training_images(3))
    source = source_of(source=str(path))
    path.write_bytes(path.read_bytes()[:6000])
    found = written(source, tmp_path)
    assert 0 < found.info.rows < 9
    assert set(found.unreadable.values()) == {"w.tar ends within it"}
