"""Eight damages, in a source and in finished shards, on a disk and in an object store: each is answered in one line,
and nothing else is lost.
"""

import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from benchmarks.five_forms import bomb, jpeg, write_tar
from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import ShardRun
from glotok_ray.data.records import Row, read_rows, write_dataset, write_shard
from glotok_ray.data.shard_writing import ShardTask, write_task
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.tar_shards import read_tar_rows, write_tar_shard
from glotok_ray.storage import artefact, begun
from glotok_ray.storage.places import copy_file, to_path
from jobs import verify

ROWS = [Row(f"a/{row:02d}.jpg", jpeg(row, (40, 30)), row % 3) for row in range(40)]
PARQUET, TAR = "part-00001.parquet", "000001.tar"

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def store() -> Iterator[None]:
    with s3_server():
        yield


def in_store(folder: Path) -> Path:
    """A copy of the folder."""
    target = to_path(f"s3://{BUCKET}/damages{folder}")
    for path in folder.rglob("*"):
        if path.is_file():
            copy_file(path, target / path.relative_to(folder).as_posix())
    return target


def finished(folder: Path, *, tar: bool, alike: int = 1) -> Path:
    """Shards of twenty rows, so many like the second one; returns the second one's file."""
    begun.start_folder(folder, fresh=False)
    write = write_tar_shard if tar else write_shard
    pattern = "{:06d}.tar" if tar else "part-{:05d}.parquet"
    rows = [ROWS[:20], *[ROWS[20:]] * alike]
    shards = [write(folder / pattern.format(n), each) for n, each in enumerate(rows)]
    write_dataset(
        folder,
        classes=["x", "y", "z"],
        form="original",
        image_size=0,
        shards=shards,
        details={"shard_format": "webdataset"} if tar else {},
    )
    artefact.write_manifest(folder, "shards", "f")
    return folder / shards[1].file


def flipped(path: Path) -> None:
    """One bit in the middle of an image's entropy-coded bytes, which still decode."""
    data = bytearray(path.read_bytes())
    data[data.find(ROWS[27].image) + len(ROWS[27].image) // 2] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.find(ROWS[30].image) + 100])


def with_row(row: Row) -> Damage:
    def change(path: Path) -> None:
        write = write_tar_shard if path.suffix == ".tar" else write_shard
        write(path, [*ROWS[20:25], row, *ROWS[26:]])

    return change


def labels_of_text(path: Path) -> None:
    table = pyarrow.parquet.read_table(path)
    labels = pyarrow.array([str(label) for label in table["label"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(2, "label", labels), path)


def renamed_member(name: str) -> Damage:
    def change(path: Path) -> None:
        with tarfile.open(path) as archive:
            members = [
                (info.name, archive.extractfile(info).read())  # type: ignore[union-attr]
                for info in archive
            ]
        write_tar(path, [(name, members[0][1]), *members[1:]])

    return change


def text_label(path: Path) -> None:
    data = path.read_bytes()
    at = data.find(b"a/27.cls") + 512
    path.write_bytes(data[:at] + b"z" + data[at + 1 :])


TEXT = Row("a/25.jpg", b"no image at all", 1)
BOMB = Row("a/25.jpg", bomb(), 1)

IN_SHARDS: dict[str, tuple[bool, Damage, str]] = {
    "a flipped byte": (
        False,
        flipped,
        rf"{PARQUET}: differs from its sha256 .*; damaged: row 7 \(key 'a/27\.jpg'\): the bytes of its image fail",
    ),
    "a flipped byte in a tar": (
        True,
        flipped,
        rf"{TAR}: differs from .*; damaged: row 7 \(key 'a/27\.jpg'\): the bytes of its image differ from their sha256",
    ),
    "a truncated tar": (
        True,
        truncated,
        rf"{TAR}: differs .*: is cut off or damaged \(unexpected end of data; last member: a/30\.jpg\)",
    ),
    "a truncated shard": (False, truncated, rf"{PARQUET}: differs .*: cannot be read as Parquet"),
    "a missing shard": (False, Path.unlink, rf"{PARQUET}: listed in manifest\.json but missing"),
    "a label of another type": (
        False,
        labels_of_text,
        rf"{PARQUET}: differs .*; damaged: column 'label' is of type string; it must be of type int32",
    ),
    "a label of another type in a tar": (
        True,
        text_label,
        rf"{TAR}: differs .*: row 7: sample 'a/27': its cls is 'z' and its json says label 0",
    ),
    "a label of no class": (
        False,
        with_row(ROWS[25]._replace(label=3)),
        rf"{PARQUET}: differs .*: row 5 \(key 'a/25\.jpg'\): its label 3 is none of 3 classes",
    ),
    "a text file named .jpg": (
        False,
        with_row(TEXT),
        rf"{PARQUET}: differs .*: row 5 \(key 'a/25\.jpg'\): its image cannot be decoded \(no image of a format",
    ),
    "a text file named .jpg in a tar": (
        True,
        with_row(TEXT),
        rf"{TAR}: differs .*: row 5 \(key 'a/25\.jpg'\): its image cannot be decoded \(no image of a format",
    ),
    "an absolute path in a tar": (
        True,
        renamed_member("/etc/20.jpg"),
        rf"{TAR}: differs .*: row 0: member '/etc/20\.jpg' is with an unsafe path",
    ),
    "an upward path in a tar": (
        True,
        renamed_member("../20.jpg"),
        rf"{TAR}: differs .*: row 0: member '\.\./20\.jpg' is with an unsafe path",
    ),
    "a bomb": (
        False,
        with_row(BOMB),
        rf"{PARQUET}: differs .*: row 5 \(key 'a/25\.jpg'\): its image cannot be decoded \(.*decompression bomb",
    ),
}


@pytest.mark.parametrize("name", IN_SHARDS)
def test_verify_names_the_shard_the_row_and_what_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    tar, damage, text = IN_SHARDS[name]
    path = finished(tmp_path / "d", tar=tar)
    assert verify.main([str(path.parent)]) == 0
    caplog.clear()
    damage(path)
    assert verify.main([str(path.parent)]) == 2
    (line,) = (record.message for record in caplog.records if record.levelname == "ERROR")
    assert "\n" not in line
    assert re.search(text, line), line
    # The other shard is read as ever.
    read = read_tar_rows if tar else read_rows
    assert list(read(path.with_name("000000.tar" if tar else "part-00000.parquet"))) == ROWS[:20]


@pytest.mark.parametrize("tar", [False, True])
def test_each_damage_is_named_in_a_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, store: None, tar: bool
) -> None:
    damages = [each for each in IN_SHARDS.values() if each[0] == tar]
    path = finished(tmp_path / "d", tar=tar, alike=len(damages))
    names = [path.name.replace("1", str(number)) for number in range(len(damages) + 1)]
    for name, (_, damage, _) in zip(names[1:], damages, strict=True):
        damage(path.with_name(name))
    folder = in_store(path.parent)
    assert verify.main([str(folder)]) == 2
    lines = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == len(damages)
    for line, name, (_, _, text) in zip(sorted(lines), names[1:], damages, strict=True):
        assert "\n" not in line
        assert line.startswith(f"s3://{BUCKET}/")
        assert re.search(text.replace(path.name, name), line), line
        assert tempfile.gettempdir() not in line.replace(str(folder), "")
    assert list((read_tar_rows if tar else read_rows)(folder / names[0])) == ROWS[:20]


def test_many_damaged_rows_are_counted(tmp_path: Path, caplog: Any) -> None:
    path = finished(tmp_path / "d", tar=True)
    write_tar_shard(path, [row._replace(image=b"text") for row in ROWS[20:]])
    assert verify.main([str(path.parent)]) == 2
    assert "row 0 (key 'a/20.jpg')" in caplog.messages[-1]
    assert caplog.messages[-1].endswith("; and 17 more")


def test_other_bytes_of_the_same_rows_are_said_to_be_readable(tmp_path: Path, caplog: Any) -> None:
    path = finished(tmp_path / "d", tar=False)
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), path, compression="NONE")
    assert verify.main([str(path.parent)]) == 2
    assert "all of its rows can be read and decoded" in caplog.messages[-1]


# ------------------------------------------------------------------------------------------ sources


def webdataset(folder: Path, *, alike: int = 1, size: int = 20) -> Path:
    """Tars of so many images, `alike` of them like the second one."""
    for tar, rows in enumerate([ROWS[:size], *[ROWS[20 : 20 + size]] * alike]):
        members = [
            (row.key.replace(".jpg", suffix), content)
            for row in rows
            for suffix, content in ((".jpg", row.image), (".cls", str(row.label).encode()))
        ]
        write_tar(folder / f"{tar}.tar", members)
    return folder


def with_member(name: str, content: bytes) -> Damage:
    """The second tar with another member in place of its first image."""

    def change(folder: Path) -> None:
        path = folder / "1.tar"
        with tarfile.open(path) as archive:
            members = [
                (info.name, archive.extractfile(info).read())  # type: ignore[union-attr]
                for info in archive
            ]
        write_tar(path, [(name, content), *members[1:]])

    return change


IN_SOURCES: dict[str, tuple[Damage, str]] = {
    # Its bytes are all that is known of it: damage that decodes is not to be seen.
    "a flipped byte": (
        with_member("a/20.jpg", b"\x00" + ROWS[20].image[1:]),
        "no image of a format that is read",
    ),
    "a text file named .jpg": (
        with_member("a/20.jpg", b"no image at all"),
        "no image of a format that is read",
    ),
    "an absolute path": (with_member("/a/20.jpg", ROWS[20].image), "with an unsafe path"),
    "an upward path": (with_member("../20.jpg", ROWS[20].image), "with an unsafe path"),
    "a label of another type": (
        lambda folder: text_label_of(folder / "1.tar"),
        "images without a usable label",
    ),
    "a bomb": (with_member("a/20.png", bomb()), "more than 178956970 pixels"),
}


def text_label_of(path: Path) -> None:
    data = path.read_bytes()
    at = data.find(b"a/20.cls") + 512
    path.write_bytes(data[:at] + b"\x07" + data[at + 1 :])


@pytest.mark.parametrize("name", IN_SOURCES)
def test_sharding_names_it_and_keeps_all_others(tmp_path: Path, name: str) -> None:
    damage, text = IN_SOURCES[name]
    folder = webdataset(tmp_path / "w")
    damage(folder)
    run = ShardRun(source=str(folder), image_size=0)
    source = ImageSource.of(run)
    rows = [row for each in source.rows().values() for row in each]
    found = write_task(ShardTask(str(tmp_path), "all.parquet", rows), run)
    lines = [item.kind for item in source.left_out] + list(found.unreadable.values())
    assert len([line for line in lines if text in line]) == 1
    assert not any("\n" in line for line in lines)
    kept = {row.key.rpartition("/")[2] for row in read_rows(tmp_path / "all.parquet")}
    assert kept == {row.key.removeprefix("a/") for row in ROWS} - {"20.jpg"}


def test_sharding_from_a_store_names_each_and_keeps_all_others(tmp_path: Path, store: None) -> None:
    folder = webdataset(tmp_path / "w", alike=len(IN_SOURCES), size=4)
    for number, (damage, _) in enumerate(IN_SOURCES.values(), start=1):
        part = tmp_path / "part"
        part.mkdir(exist_ok=True)
        (folder / f"{number}.tar").rename(part / "1.tar")
        damage(part)
        (part / "1.tar").rename(folder / f"{number}.tar")
    run = ShardRun(source=str(in_store(folder)), image_size=0)
    source = ImageSource.of(run)
    rows = [row for each in source.rows().values() for row in each]
    found = write_task(ShardTask(str(tmp_path), "all.parquet", rows), run)
    lines = [f"{item.examples[0]} {item.kind}" for item in source.left_out]
    lines += [f"{key} {reason}" for key, reason in found.unreadable.items()]
    assert not any("\n" in line for line in lines)
    assert all(any(text in line for line in lines) for _, text in IN_SOURCES.values())
    # Of each tar one image is lost, and no other.
    assert found.info.rows == 4 + 3 * len(IN_SOURCES)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda folder: truncated(folder / "1.tar"),
            r"w': 1\.tar: is cut off or damaged .*last member: a/\d+",
        ),
        (lambda folder: (folder / "1.tar").write_bytes(b""), r"w': 1\.tar: is cut off or damaged"),
    ],
)
def test_a_truncated_archive_ends_the_job_before_it_writes(
    tmp_path: Path, damage: Damage, text: str
) -> None:
    folder = webdataset(tmp_path / "w")
    damage(folder)
    with pytest.raises(ValueError, match=text) as error:
        ImageSource.of(ShardRun(source=str(folder), image_size=0))
    assert "\n" not in str(error.value)


def test_an_answer_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished(tmp_path / "d", tar=False)
    flipped(path)
    assert verify.main([str(path.parent)]) == 2
    (answer,) = json.loads(capsys.readouterr().out)
    assert "row 7 (key 'a/27.jpg')" in answer["damage"][0]
