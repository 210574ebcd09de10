"""The protocol of job folders in an object store: begun, owned, finished, kept aside, read through the node's cache."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.storage import artefact, begun, marks, node_cache, owners, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.begun import FolderInUseError
from glotok_ray.storage.contents import Collection
from glotok_ray.storage.node_cache import NodeCache, at_hand
from glotok_ray.storage.output import Unfinished, collection, look
from glotok_ray.storage.ownership import FolderLostError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import load_weights, save_weights


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture
def folder(request: Any) -> Iterator[Any]:
    yield to_path(f"s3://{BUCKET}/{request.node.name}/out")
    for held in list(ownership._held):
        ownership.give_back(held)


def finish(folder: Any, setting: int = 1, *, fresh: bool = False) -> dict[str, Any]:
    output = look(folder, "things", {"x": setting}, fresh=fresh)
    if output.finished is not None:
        return output.finished
    output.begin(Unfinished.REPLACE)
    (folder / "sub" / "a.txt").write_text(f"a{setting}")
    with artefact.hashed_writer(folder / "b.bin") as stream:
        stream.write(b"bytes")
    return output.finish(known={"b.bin": (stream.bytes, stream.sha256)}, told=setting)


def names(folder: Any) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def test_a_finished_folder_is_recognised_and_kept_aside_with_fresh(folder: Any) -> None:
    manifest = finish(folder)
    assert list(manifest["files"]) == ["b.bin", "sub/a.txt"]
    assert names(folder) == ["b.bin", "manifest.json", "sub/a.txt"]
    assert finish(folder) == manifest
    assert artefact.read_manifest(folder, "things", every_byte=True) == manifest
    with pytest.raises(ArtefactError, match="made by other settings or inputs"):
        finish(folder, 2)
    assert finish(folder, 2, fresh=True)["told"] == 2
    previous = folder.with_name("out.previous")
    assert artefact.read_manifest(previous, "things", every_byte=True) == manifest
    assert names(previous) == ["b.bin", "manifest.json", "sub/a.txt"]


def test_fresh_keeps_finished_work_and_touches_no_foreign_objects(folder: Any) -> None:
    finish(folder)
    previous = folder.with_name("out.previous")
    for _ in range(3):
        look(folder, "things", {"x": 2}, fresh=True).go_on()
        (folder / "half").touch()
        ownership.give_back(folder)
        assert names(folder) == [".begun.json", "half"]
        assert names(previous) == ["b.bin", "manifest.json", "sub/a.txt"]
    (previous / "manifest.json").unlink()
    with pytest.raises(ArtefactError, match=r"^s3://\S+out\.previous: is no folder that a job"):
        look(folder, "things", {"x": 2}, fresh=True).go_on()
    assert names(previous) == ["b.bin", "sub/a.txt"]
    parts = Collection(files=("log.txt",), first="data", settled="config.json", last="report.html")
    with (
        pytest.raises(ArtefactError, match="half: no job of"),
        collection(folder, parts, fresh=True),
    ):
        pass


def test_fresh_keeps_a_finished_collection(folder: Any) -> None:
    parts = Collection(files=("*.html",), first="data", settled="config.json", last="report.html")
    with collection(folder, parts, fresh=False):
        finish(folder / "data" / "train")
        (folder / "report.html").touch()
    for _ in range(2):
        with collection(folder, parts, fresh=True):
            assert names(folder) == [".begun.json"]
        assert "report.html" in names(folder.with_name("out.previous"))
        mark_begun(folder)


def mark_begun(folder: Any) -> None:
    begun.own(folder)
    ownership.give_back(folder)


def test_damage_is_found_by_size_and_by_digest(folder: Any) -> None:
    finish(folder)
    artefact.verify_once(folder, "things")
    assert (folder / artefact.RECEIPT).is_file()
    artefact.read_manifest(folder, "things")
    (folder / "sub" / "a.txt").write_text("a2")
    with pytest.raises(ArtefactError, match=r"sub/a\.txt: differs from its sha256"):
        artefact.read_manifest(folder, "things", every_byte=True)
    (folder / "sub" / "a.txt").unlink()
    with pytest.raises(ArtefactError, match=r"^s3://.*sub/a\.txt: listed in .* but missing"):
        artefact.read_manifest(folder, "things")


def test_files_that_no_job_began_are_refused(folder: Any) -> None:
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="holds files that no job of this package began"):
        finish(folder)
    assert names(folder) == ["mine.txt"]


def test_unfinished_work_of_the_same_settings_is_kept(folder: Any) -> None:
    look(folder, "things", {"x": 1}).begin(Unfinished.SAME_ONLY)
    (folder / "part").write_text("done")
    ownership.give_back(folder)
    with pytest.raises(ArtefactError, match="unfinished work of other settings"):
        look(folder, "things", {"x": 2}).begin(Unfinished.SAME_ONLY)
    look(folder, "things", {"x": 1}).begin(Unfinished.SAME_ONLY)
    assert (folder / "part").read_text() == "done"


def stranger(pid: int = 1) -> marks.Owner:
    return dataclasses.replace(owners.this_process(), host="elsewhere", machine="other", pid=pid)


def test_a_folder_of_a_job_that_lives_elsewhere_is_refused(folder: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(owners, "_LOOK_S", 0.05)
    mark = marks.Mark(token="theirs", owner=stranger())
    assert marks.succeed(folder, None, mark)
    ended = threading.Event()

    def beat() -> None:
        # Times are whole seconds.
        while not ended.wait(0.3):
            marks.touch(folder, mark)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(
            FolderInUseError, match="another job works on it: process 1 on elsewhere"
        ):
            begun.own(folder)
    finally:
        ended.set()
        thread.join()


def test_a_folder_of_a_job_that_stopped_beating_is_taken_over_by_one(
    folder: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(owners, "LEASE_S", 0.2)
    monkeypatch.setattr(owners, "_LOOK_S", 0.05)
    mark = marks.Mark(token="theirs", fingerprint="f", owner=stranger())
    assert marks.succeed(folder, None, mark)
    results: list[bool] = []
    takers = [marks.Mark(token=f"taker{number}", owner=stranger(number)) for number in range(2, 6)]

    def take(taker: marks.Mark) -> None:
        results.append(marks.succeed(folder, mark, taker))

    threads = [threading.Thread(target=take, args=(taker,)) for taker in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]
    assert marks.read_mark(folder) in takers
    begun.own(folder)
    assert ownership.holds(folder)
    assert ownership.live_owner(folder) is None


def test_a_job_that_lost_its_folder_writes_no_manifest(folder: Any) -> None:
    output = look(folder, "things", {"x": 1})
    output.begin(Unfinished.REPLACE)
    found = marks.read_mark(folder)
    theirs = marks.Mark(token="theirs", owner=stranger())
    assert found is not None
    assert marks.succeed(folder, found, theirs)
    # A beat on its way changes nothing.
    marks.touch(folder, found)
    with ownership.holding(), pytest.raises(FolderLostError, match="process 1 on elsewhere"):
        output.finish()
    assert not (folder / artefact.MANIFEST).exists()
    assert marks.read_mark(folder) == theirs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    node_cache._known_digests.clear()
    return tmp_path / "cache" / "entries"


def test_the_cache_gives_what_is_there_now(folder: Any, cache: Path, tmp_path: Path) -> None:
    assert at_hand(tmp_path) is tmp_path
    (folder / "x.npy").write_bytes(b"one")
    before = node_cache.cache_facts().get("cache_hits", 0)
    first = at_hand(folder / "x.npy")
    assert first.read_bytes() == b"one"
    assert first.suffix == ".npy"
    assert at_hand(folder / "x.npy") == first
    facts = node_cache.cache_facts()
    assert facts["cache_hits"] == before + 1
    assert 0 < facts["cache_hit_share"] < 1
    (folder / "x.npy").write_bytes(b"three")
    assert at_hand(folder / "x.npy").read_bytes() == b"three"
    with pytest.raises(FileNotFoundError, match="none: no such object"):
        at_hand(folder / "none")


def test_what_a_manifest_lists_is_checked_on_its_way(folder: Any, cache: Path) -> None:
    finish(folder)
    assert at_hand(folder / "sub" / "a.txt").read_text() == "a1"
    (folder / "b.bin").write_bytes(b"BYTES")
    with pytest.raises(ArtefactError, match=r"b\.bin: differs from its sha256"):
        at_hand(folder / "b.bin")
    assert len(list(cache.iterdir())) == 1


def test_a_folder_that_is_made_again_is_read_again(folder: Any, cache: Path) -> None:
    finish(folder)
    assert at_hand(folder / "sub" / "a.txt").read_text() == "a1"
    finish(folder, 2, fresh=True)
    assert at_hand(folder / "sub" / "a.txt").read_text() == "a2"


def test_what_was_not_used_for_longest_goes_first(folder: Any, tmp_path: Path) -> None:
    store = NodeCache(tmp_path, 250)
    for number in range(3):
        (folder / f"{number}").write_bytes(bytes(100))
    entries = [store.local(folder / f"{number}") for number in range(2)]
    for entry, age in zip(entries, (100, 200), strict=True):
        os.utime(entry, (time.time() - age,) * 2)
    newest = store.local(folder / "2")
    assert [entry.exists() for entry in (*entries, newest)] == [True, False, True]
    # Those of the last minute stay, whatever the limit.
    assert NodeCache(tmp_path, 1).local(folder / "2").exists()


def test_a_limit_that_is_no_number_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setenv(node_cache.LIMIT_VARIABLE, "much")
    with pytest.raises(ValueError, match=r"^GLOTOK_CACHE_GIB = 'much': must be a positive number"):
        NodeCache.of_this_node()


def test_weights_are_written_and_read(folder: Any, cache: Path) -> None:
    module = torch.nn.Linear(2, 3)
    save_weights(folder / "weights.safetensors", module.state_dict())
    other = torch.nn.Linear(2, 3)
    load_weights(other, folder / "weights.safetensors")
    assert torch.equal(module.weight, other.weight)
