"""Images to shard that lie in an object store: the same shards as of a disk, and damage that costs what it costs there.

Ray's pool is replaced by a loop of this process, as in test_stages_on_s3.py.
"""

import logging
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import listing_requests
from benchmarks.five_forms import training_images, validation_images, write_five_forms
from benchmarks.s3_server import BUCKET, S3Server, s3_server
from glotok_ray.config import ShardRun
from glotok_ray.data import tar_archives
from glotok_ray.data.sources import ImageSource
from glotok_ray.on_ray import tasks
from glotok_ray.stages import shard_images
from glotok_ray.storage import stretches
from glotok_ray.storage.object_stores import client
from glotok_ray.storage.places import copy_file, to_path

FORMS = ("folders", "tars", "webdataset", "parquet", "kaggle")
_SERVERS: list[S3Server] = []
TOP = f"s3://{BUCKET}/sources"


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with s3_server() as server:
        _SERVERS.append(server)
        yield


@pytest.fixture(scope="module")
def forms(tmp_path_factory: Any) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("sources")
    found = write_five_forms(root, training_images(8), validation_images(3), per_archive=7)
    (root / "folders" / "train" / "n01440764" / "notes.md").write_text("no image")
    (root / "folders" / "train" / "n01440764" / ".hidden.JPEG").write_text("no image")
    for path in root.rglob("*"):
        if path.is_file():
            copy_file(path, to_path(TOP) / path.relative_to(root).as_posix())
    # What a store's console makes of a folder.
    client("s3").call_s3("put_object", Bucket=BUCKET, Key="sources/folders/train/n01440764/")
    return found | {"root": {"path": str(root)}}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: Any) -> None:
    def here(function: Any, units: Any, **_: Any) -> Iterator[Any]:
        return (function(pickle.loads(pickle.dumps(unit))) for unit in units)

    monkeypatch.setattr(tasks, "map_tasks", here)


def moved(forms: dict[str, dict[str, Any]], form: str) -> dict[str, Any]:
    root = forms["root"]["path"]
    return {name: value.replace(root, TOP) for name, value in forms[form].items()}


def sharded(fields: dict[str, Any], output: Path) -> dict[str, bytes]:
    run = ShardRun(
        **fields,
        output_path=str(output),
        image_size=0,
        upright=False,
        rows_per_shard=10,
        storage_retry_minutes=0.0,
    )
    shard_images.run(run)
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in output.rglob("*")
        if path.suffix == ".parquet" or path.name == "dataset.json"
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_shards_of_a_disk(
    forms: dict[str, dict[str, Any]], form: str, tmp_path: Path
) -> None:
    fields = moved(forms, form)
    assert all(value.startswith("s3://") for value in fields.values())
    wanted = sharded(forms[form], tmp_path / "local")
    assert sharded(fields, tmp_path / "remote") == wanted
    assert len(wanted) == 3 + 1 + 2
    secret = b"loopback-secret"
    assert not any(
        secret in path.read_bytes() for path in (tmp_path / "remote").rglob("*") if path.is_file()
    )


def counted(monkeypatch: Any) -> list[tuple[int, int]]:
    """The ranged requests from now on, as (offset, size)."""
    found: list[tuple[int, int]] = []
    requested = stretches._requested

    def count(path: Any, offset: int, size: int) -> bytes:
        found.append((offset, size))
        return requested(path, offset, size)

    monkeypatch.setattr(stretches, "_requested", count)
    return found


def test_listing_a_tar_asks_for_stretches_and_not_for_headers(
    forms: dict[str, dict[str, Any]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(stretches, "AHEAD_BYTES", 8192)
    monkeypatch.setattr(stretches, "_FIRST_BYTES", 1024)
    requests = counted(monkeypatch)
    fields = moved(forms, "tars")
    source = ImageSource.of(ShardRun(**fields, image_size=0, upright=False))
    assert source.num_images == 24 + 9
    tars = [to_path(fields[name]) for name in ("source", "validation_source")]
    assert len(requests) < source.num_images
    assert sum(size for _, size in requests) < 2 * sum(path.stat().st_size for path in tars)


@pytest.mark.parametrize("members", [10, 40])
def test_requests_of_a_listing_are_those_of_the_formula(
    members: int, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(stretches, "AHEAD_BYTES", 64 << 10)
    monkeypatch.setattr(stretches, "_FIRST_BYTES", 3 << 10)
    sizes = (3, members, 9000)
    path = listing_requests.zeros_tar(tmp_path / "zeros.tar", *sizes)
    remote = to_path(f"{TOP}-zeros/{members}.tar")
    copy_file(path, remote)
    images, found = listing_requests.requests_of(str(remote))
    assert images == 3 * members
    assert found["ranged"] == listing_requests.ranged_requests(*sizes)
    # At ImageNet's size: not a request for each image.
    monkeypatch.undo()
    assert listing_requests.ranged_requests(1000, 1281, 115_000) < 25_000


def test_members_larger_than_a_stretch_are_passed_over(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(stretches, "AHEAD_BYTES", 4096)
    monkeypatch.setattr(stretches, "_FIRST_BYTES", 1024)
    path = tmp_path / "large.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(6):
            part = tmp_path / str(number)
            part.write_bytes(bytes([number]) * 100_000)
            archive.add(part, part.name)
    remote = to_path(f"{TOP}-large/large.tar")
    copy_file(path, remote)
    requests = counted(monkeypatch)
    with tar_archives.Span(remote, 0.0) as span:
        members = list(tar_archives.tar_members(span, "large.tar"))
    with tar_archives.Span(path, 0.0) as span:
        assert members == list(tar_archives.tar_members(span, "large.tar"))
    assert sum(size for _, size in requests) < 20_000


@pytest.mark.parametrize(
    ("form", "name", "said"),
    [
        ("tars", "ILSVRC2012_img_train.tar", r"ILSVRC2012_img_train\.tar.*is cut off or damaged"),
        (
            "webdataset",
            "webdataset/imagenet-train-0000.tar",
            r"imagenet-train-0000\.tar: is cut off",
        ),
        (
            "parquet",
            "parquet/train-00000-of-00001.parquet",
            r"train-00000-of-00001\.parquet: Parquet",
        ),
        ("parquet", "synsets.txt", "class_names_path = 's3://.*: has no name for class"),
    ],
)
def test_a_damaged_archive_ends_in_one_line_that_names_it(
    forms: dict[str, dict[str, Any]], form: str, name: str, said: str, tmp_path: Path
) -> None:
    path = to_path(TOP) / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(ValueError, match=said) as caught:
            sharded(moved(forms, form), tmp_path)
    finally:
        path.write_bytes(content)
    assert "\n" not in str(caught.value)


def test_an_image_that_went_away_costs_itself(
    forms: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    fields = moved(forms, "folders")
    lost = to_path(fields["source"]) / "n01443537" / "n01443537_12.JPEG"
    content = lost.read_bytes()
    write = shard_images._write

    def away(*arguments: Any) -> Any:
        lost.unlink()
        return write(*arguments)

    monkeypatch.setattr(shard_images, "_write", away)
    with caplog.at_level(logging.WARNING):
        sharded(fields, tmp_path)
    lost.write_bytes(content)
    (line,) = [text for text in caplog.messages if "cannot be read" in text]
    assert line.startswith("1 of 33 images")
    assert "n01443537/n01443537_12.JPEG" in line


@pytest.mark.parametrize("form", ["folders", "tars", "parquet"])
def test_a_source_that_changes_is_another_source(
    forms: dict[str, dict[str, Any]], form: str
) -> None:
    fields = moved(forms, form)
    run = ShardRun(**fields, image_size=0, upright=False)
    before = ImageSource.of(run).bound_settings()
    path = to_path(fields["source"])
    if not path.is_file():
        path = next(each for each in path.rglob("[!.]*") if each.suffix in (".JPEG", ".parquet"))
    content = path.read_bytes()
    assert ImageSource.of(run).bound_settings() == before
    # In an image, so that sizes and headers stay.
    changed = bytearray(content)
    place = content.index(b"\xff\xda") + 20
    changed[place] ^= 1
    path.write_bytes(bytes(changed))
    try:
        assert ImageSource.of(run).bound_settings() != before
    finally:
        path.write_bytes(content)


def test_a_server_that_goes_away_meanwhile_costs_time_alone(
    forms: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    wanted = sharded(forms["tars"], tmp_path / "local")
    write = shard_images._write

    def away(*arguments: Any) -> Any:
        _SERVERS[0].stop()
        threading.Timer(1.0, _SERVERS[0].start).start()
        return write(*arguments)

    monkeypatch.setattr(shard_images, "_write", away)
    assert sharded(moved(forms, "tars"), tmp_path / "remote") == wanted
