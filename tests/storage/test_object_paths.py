"""Paths of objects against a server: names, looks, bytes, and what happens when it is away."""

import logging
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.s3_server import BUCKET, S3Server, s3_server
from glotok_ray.storage import object_stores
from glotok_ray.storage.artefact import append_line, hashed_writer, line_appender, write_json
from glotok_ray.storage.object_paths import ObjectPath
from glotok_ray.storage.places import (
    copy_file,
    is_remote,
    move_tree,
    remove_tree,
    to_path,
    writing,
)
from glotok_ray.storage.retries import patiently


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        yield found


@pytest.fixture
def folder(server: S3Server, request: Any) -> Any:
    return to_path(f"s3://{BUCKET}/{request.node.name}")


def test_local_paths_stay_plain(tmp_path: Path) -> None:
    assert type(to_path(str(tmp_path))) is type(tmp_path)
    assert to_path(tmp_path) == tmp_path
    assert not is_remote(tmp_path)
    with writing(tmp_path / "x") as place:
        assert place == tmp_path / "x"


def test_names_are_those_of_a_path() -> None:
    path = ObjectPath("s3://bucket/runs/one.tar.gz")
    assert str(path) == "s3://bucket/runs/one.tar.gz"
    assert (path.name, path.stem, path.suffix) == ("one.tar.gz", "one.tar", ".gz")
    assert str(path.parent) == "s3://bucket/runs"
    assert [str(place) for place in path.parents] == ["s3://bucket/runs", "s3://bucket"]
    assert str(path.with_name("two")) == "s3://bucket/runs/two"
    assert path.relative_to(ObjectPath("s3://bucket/")).as_posix() == "runs/one.tar.gz"
    assert path.absolute() is path
    assert ObjectPath("S3://bucket/runs/") == ObjectPath("s3://bucket/runs")
    assert sorted([path / "b", path / "a"]) == [path / "a", path / "b"]
    assert pickle.loads(pickle.dumps(path)) == path
    with pytest.raises(ValueError, match="does not lie below"):
        path.relative_to(ObjectPath("s3://other"))


def test_an_unknown_scheme_and_a_missing_package_are_told_in_one_line(monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match=r"^ftp://x: ftp:// is not supported; there is s3, gs"):
        to_path("ftp://x")
    monkeypatch.setitem(object_stores.PACKAGES, "s3", "no_such_package")
    with pytest.raises(ValueError, match=r"run: pip install 'glotok-ray\[s3\]'$"):
        to_path("s3://bucket/x")


def test_bytes_come_back_and_folders_are_what_lies_below(folder: Any) -> None:
    assert not folder.exists()
    assert list(folder.glob("*")) == []
    (folder / "sub" / "a.txt").write_text("ä")
    (folder / "b.bin").write_bytes(b"12345")
    assert folder.is_dir()
    assert not folder.is_file()
    assert (folder / "b.bin").is_file()
    assert (folder / "b.bin").stat().st_size == 5
    assert (folder / "sub" / "a.txt").read_text() == "ä"
    assert [path.name for path in sorted(folder.iterdir())] == ["b.bin", "sub"]
    assert list(folder.glob("*/a.*")) == [folder / "sub" / "a.txt"]
    assert list(folder.rglob("*")) == [folder / "b.bin", folder / "sub" / "a.txt"]
    with (folder / "b.bin").open("rb") as stream:
        stream.seek(2)
        assert stream.read(2) == b"34"
    (folder / "b.bin").unlink()
    (folder / "b.bin").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"b\.bin: no such object"):
        (folder / "b.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.bin: no such object"):
        (folder / "b.bin").read_bytes()


def test_a_stream_is_seen_when_it_is_closed_and_never_after_an_error(folder: Any) -> None:
    path = folder / "log.txt"
    stream = path.open("w")
    stream.write("one\n")
    stream.flush()
    assert not path.exists()
    stream.close()
    with path.open("a") as stream:
        stream.write("two\n")
    assert path.read_text() == "one\ntwo\n"

    def fail(mode: str) -> None:
        with path.open(mode) as stream:
            stream.write(b"three" if "b" in mode else "three")
            raise RuntimeError("broken")

    for mode in ("w", "wb"):
        with pytest.raises(RuntimeError):
            fail(mode)
    assert path.read_text() == "one\ntwo\n"
    with pytest.raises(FileExistsError), path.open("xb"):
        pass


def test_one_of_many_makes_an_object(folder: Any) -> None:
    made = []

    def make(number: int) -> None:
        try:
            (folder / "mark").create(str(number).encode())
            made.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number) for number in made] == [(folder / "mark").read_text()]


def test_large_files_go_in_parts_and_keep_their_digest(folder: Any, tmp_path: Path) -> None:
    with hashed_writer(folder / "large") as stream:
        for _ in range(110):
            stream.write(bytes(1 << 20))
    status = (folder / "large").stat()
    assert status.st_size == stream.bytes == 110 << 20
    assert "-" in status.etag  # of an object in parts
    copy_file(folder / "large", tmp_path / "back")
    assert (tmp_path / "back").stat().st_size == status.st_size


def test_a_folder_moves_with_its_manifest_last_and_is_removed_with_it_first(
    folder: Any, monkeypatch: Any
) -> None:
    for name in ("a", "manifest.json", "z/deep"):
        (folder / "old" / name).write_text(name)
    move_tree(folder / "old", folder / "new")
    assert not (folder / "old").exists()
    assert (folder / "new" / "z" / "deep").read_text() == "z/deep"
    removed = []
    monkeypatch.setattr(ObjectPath, "unlink", lambda path, missing_ok: removed.append(path.name))
    remove_tree(folder / "new")
    assert removed == ["manifest.json", "a", "deep"]


def test_lines_are_appended(folder: Any) -> None:
    for step in range(3):
        append_line(folder / "metrics.jsonl", {"step": step, "loss": float("nan")})
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert lines[2] == '{"step": 2, "loss": null, "not_finite": ["loss"]}'


@pytest.mark.parametrize("arrived", [True, False])
def test_a_line_is_there_once_however_often_it_is_sent(
    folder: Any, monkeypatch: Any, arrived: bool
) -> None:
    path, send, tries = folder / "lines.jsonl", ObjectPath.write_bytes, []

    def fail_at_first(object_: ObjectPath, content: bytes) -> int:
        tries.append(content)
        if arrived or len(tries) > 2:
            send(object_, content)
        if len(tries) < 3:
            raise OSError("the answer was lost")
        return len(content)

    append_line(path, {"step": 1})
    with monkeypatch.context() as patched:
        patched.setattr(ObjectPath, "write_bytes", fail_at_first)
        write = line_appender(path, {"step": 2})
        patiently(write, path, minutes=1, sleep=lambda _: None)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert len(tries) == (1 if arrived else 3)
    # Lines of two calls are two, and equal ones, too.
    line_appender(path, {"step": 2})()
    assert path.read_text().count('{"step": 2}') == 2


def test_a_server_that_is_away_costs_time_alone(server: S3Server, folder: Any) -> None:
    write_json(folder / "facts.json", {"x": 1})
    server.stop()
    threading.Timer(1.5, server.start).start()
    start = time.monotonic()
    assert (folder / "facts.json").is_file()
    assert time.monotonic() - start > 1
    server.stop()
    threading.Timer(1.0, server.start).start()
    (folder / "more").write_bytes(b"x")
    assert [path.name for path in folder.iterdir()] == ["facts.json", "more"]


def test_errors_name_the_object_and_no_credentials(
    server: S3Server, folder: Any, monkeypatch: Any, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(object_stores, "_TRIES", 1)
    monkeypatch.setattr(object_stores, "_LISTING_MINUTES", 0)
    object_stores._client.cache_clear()
    server.stop()
    try:
        with pytest.raises(OSError, match=r"^s3://glotok/test_errors_name.*/x: ") as caught:
            (folder / "x").read_bytes()
        with pytest.raises(OSError, match=r"^s3://glotok/test_errors_name"):
            (folder / "x").exists()
    finally:
        server.start()
        object_stores._client.cache_clear()
    assert caught.value.__cause__ is None
    with (
        pytest.raises(OSError, match=r"\*\*\*"),
        object_stores.answering(folder),
    ):
        raise OSError("signed with loopback-secret")
    assert "loopback-secret" not in caplog.text
