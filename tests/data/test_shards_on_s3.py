"""Shards of images and of codes in an object store: written, read in each of the ways that jobs read them, verified."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.s3_server import BUCKET, S3Server, s3_server
from glotok_ray.data import shard_reader
from glotok_ray.data.drawing import draw_images, drawn_per_class
from glotok_ray.data.records import (
    DatasetInfo,
    Row,
    ShardInfo,
    encode_png,
    read_dataset,
    read_rows,
    write_dataset,
    write_shard,
)
from glotok_ray.data.shard_parts import read_images_of_part
from glotok_ray.data.shard_reader import (
    read_chosen_rows,
    read_drawn_rows,
    read_labels,
    read_shard,
    read_shard_rows,
)
from glotok_ray.data.verification import manifest_folders, verify_folder
from glotok_ray.storage import artefact, node_cache, object_stores
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.retries import StorageError


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        yield found


@pytest.fixture
def folder(request: Any, tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    node_cache._known_digests.clear()
    return to_path(f"s3://{BUCKET}/{request.node.name}/train")


def rows(count: int = 6) -> list[Row]:
    picture = encode_png(np.zeros((8, 8, 3), dtype=np.uint8))
    return [Row(f"key{number}", picture, number % 2) for number in range(count)]


def build(folder: Any) -> Any:
    shards = [write_shard(folder / f"part-{number}.parquet", rows()) for number in range(2)]
    write_dataset(
        folder, classes=["a", "b"], form="crop", image_size=8, shards=shards, details={"left": []}
    )
    artefact.write_manifest(folder, "shards")
    return shards[0]


def test_a_shard_has_the_bytes_of_a_local_one(folder: Any, tmp_path: Path) -> None:
    shard = build(folder)
    assert write_shard(tmp_path / shard.file, rows()) == shard
    assert (folder / shard.file).read_bytes() == (tmp_path / shard.file).read_bytes()


def test_rows_are_read_in_every_way(folder: Any) -> None:
    shard = build(folder)
    assert read_dataset(folder, verify=True).num_images == 12
    assert list(read_rows(folder / shard.file)) == rows()
    assert read_shard(folder, shard, minutes=0).num_rows == 6
    assert read_shard_rows(folder / shard.file, 2, 4, minutes=0)["key"].to_pylist() == [
        "key2",
        "key3",
    ]
    chosen = read_chosen_rows(folder / shard.file, np.array([1, 5]), minutes=0)
    assert chosen["label"].to_pylist() == [1, 1]
    assert read_labels(folder, shard, minutes=0).tolist() == [0, 1, 0, 1, 0, 1]


def test_what_is_damaged_is_named(folder: Any, tmp_path: Path, monkeypatch: Any) -> None:
    shard = build(folder)
    assert manifest_folders(folder.parent) == [folder]
    assert not verify_folder(folder).damage
    content = bytearray((folder / shard.file).read_bytes())
    content[100] ^= 1
    (folder / shard.file).write_bytes(bytes(content))
    (line,) = verify_folder(folder).damage
    assert line.startswith(f"{folder / shard.file}: differs from its sha256")
    # This node has the bytes of the manifest already, another one has not.
    assert read_shard(folder, shard, minutes=0).num_rows == 6
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path / "another"))
    with pytest.raises(ArtefactError, match=r"part-0\.parquet: differs from its sha256"):
        read_shard(folder, shard, minutes=0)


FACTS = ShardInfo("part-0.parquet", 6, "")
READERS: dict[str, Callable[[Any], Any]] = {
    "labels": lambda path: read_labels(path.parent, FACTS, minutes=0.5),
    "few rows": lambda path: read_drawn_rows(path.parent, FACTS, [1], minutes=0.5),
    "training": lambda path: read_images_of_part(path, 6, np.arange(2), minutes=0.5),
    "rows": lambda path: read_shard_rows(path, 0, 2, minutes=0.5),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_store_that_is_away_or_refuses_is_waited_for_and_no_damage(
    folder: Any, read: Callable[[Any], Any], server: S3Server, monkeypatch: Any
) -> None:
    part = folder / build(folder).file
    client = object_stores.client("s3")
    # Of the hundred seconds of a request's own, one.
    monkeypatch.setattr(object_stores, "_LISTING_MINUTES", 1 / 60)
    monkeypatch.setattr(client, "retries", 1)
    # Of six rows, one is few.
    monkeypatch.setattr(shard_reader, "_ROWS_PER_REQUESTED", 6)
    server.stop()
    threading.Timer(3.0, server.start).start()
    assert len(read(part)) > 0

    info, refusals = client.info, iter(range(2))

    def refused(*arguments: Any, **named: Any) -> Any:
        for _ in refusals:
            raise PermissionError("The provided token has expired.")
        return info(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(client, "info", refused)
        assert len(read(part)) > 0


def test_a_shard_that_is_not_there_is_not_called_damaged(folder: Any) -> None:
    build(folder)
    with pytest.raises(StorageError, match=r"no\.parquet"):
        read_shard_rows(folder / "no.parquet", 0, 2, minutes=0.01)


def test_a_key_for_a_prefix_alone_reads_what_lies_right_below_it(
    folder: Any, monkeypatch: Any
) -> None:
    part = folder / write_shard(folder / "part-0.parquet", rows()).file  # listed in no manifest
    client, prefix = object_stores.client("s3"), f"{BUCKET}/{folder.parent.name}/train/"
    info = client.info

    def within(key: str, *arguments: Any, **named: Any) -> Any:
        if not key.startswith(prefix):
            raise PermissionError("Forbidden")
        return info(key, *arguments, **named)

    monkeypatch.setattr(client, "info", within)
    assert read_shard_rows(part, 0, 2, minutes=0).num_rows == 2


LARGE = [
    Row(f"n/{row}.jpg", np.random.default_rng(row).bytes(20_000), row % 5) for row in range(160)
]


def build_large(folder: Any) -> tuple[DatasetInfo, int]:
    """Three shards of 160 images, and the bytes of one."""
    shards = [write_shard(folder / f"part-{number}.parquet", LARGE) for number in range(3)]
    write_dataset(
        folder,
        classes=list("abcde"),
        form="original",
        image_size=0,
        shards=shards,
        details={"left_out": []},
    )
    artefact.write_manifest(folder, "shards")
    return read_dataset(folder), (folder / shards[0].file).stat().st_size


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each answer of the store, of stretches and of whole objects."""
    found: list[int] = []
    client = object_stores.client("s3")
    cat_file, get_file = client.cat_file, client.get_file

    def requested(*arguments: Any, **named: Any) -> bytes:
        content = cat_file(*arguments, **named)
        found.append(len(content))
        return content

    def whole(key: str, place: str, **named: Any) -> None:
        get_file(key, place, **named)
        found.append(Path(place).stat().st_size)

    monkeypatch.setattr(client, "cat_file", requested)
    monkeypatch.setattr(client, "get_file", whole)
    return found


def test_labels_are_read_without_their_images(folder: Any, fetched: list[int]) -> None:
    dataset, size = build_large(folder)
    fetched.clear()
    units = draw_images(dataset, folder, max_images=30, stratified=True, seed=0, minutes=0)
    assert drawn_per_class(units, folder, 5, minutes=0).tolist() == [6] * 5
    # A Parquet file's end is asked for in 64 KiB; the rest are labels.
    assert sum(fetched) < 2 * 3 * (80 << 10) < 0.06 * 3 * size
    # What lies on this node is not asked for again.
    for shard in dataset.shards:
        read_shard(folder, shard, minutes=0)
    fetched.clear()
    again = draw_images(dataset, folder, max_images=30, stratified=True, seed=0, minutes=0)
    assert again == units
    assert max(fetched, default=0) < 4 << 10  # The manifest, perhaps.


def test_few_drawn_rows_are_read_without_the_others(folder: Any, fetched: list[int]) -> None:
    dataset, size = build_large(folder)
    shard = dataset.shards[0]
    few, many = [3, 40, 41, 159], list(range(0, 160, 4))
    fetched.clear()
    found = read_drawn_rows(folder, shard, few, minutes=0)
    assert found.to_pylist() == [LARGE[row]._asdict() for row in few]
    assert sum(fetched) < 4 * 20_000 + (96 << 10) < 0.06 * size
    assert node_cache.held(folder / shard.file) is None
    # Many come with the whole shard, which the node then has.
    fetched.clear()
    found = read_drawn_rows(folder, shard, many, minutes=0)
    assert found.to_pylist() == [LARGE[row]._asdict() for row in many]
    assert size in fetched
    fetched.clear()
    assert read_drawn_rows(folder, shard, few, minutes=0)["key"][0].as_py() == "n/3.jpg"
    assert max(fetched, default=0) < 4 << 10


def test_damage_of_few_drawn_rows_is_named(folder: Any) -> None:
    dataset, _ = build_large(folder)
    path = folder / dataset.shards[0].file
    content = bytearray(path.read_bytes())
    content[content.index(LARGE[40].image) + 50] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtefactError, match=r"part-0\.parquet: differs from its sha256.*row 40: "):
        read_drawn_rows(folder, dataset.shards[0], [3, 40], minutes=60)
    rows = read_drawn_rows(folder, dataset.shards[0], [3, 41], minutes=0)
    assert rows["label"].to_pylist() == [3, 1]
