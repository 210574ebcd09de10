"""Finished folders: recognised, verified, never overwritten unasked."""

import errno
import hashlib
import io
import json
import math
import pickle
import re
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from glotok_ray.storage import artefact, begun
from glotok_ray.storage.artefact import ArtefactError, OtherWorkError
from glotok_ray.storage.output import check_finished


@pytest.fixture
def folder(tmp_path):
    made = begun.start_folder(tmp_path / "thing", fresh=False)
    (made / "a.txt").write_text("one")
    (made / "part").mkdir()
    (made / "part" / "b.txt").write_text("two")
    artefact.write_manifest(made, "thing", "f1", note=3)
    return made


def test_a_finished_folder_is_recognised(folder):
    manifest = artefact.finished(folder, "thing", "f1")
    assert manifest["note"] == 3
    assert set(manifest["files"]) == {"a.txt", "part/b.txt"}
    assert artefact.finished(folder.parent / "other", "thing", "f1") is None


def test_other_settings_are_refused_with_the_remedy(folder):
    with pytest.raises(ArtefactError, match=r"made by other settings.*--fresh"):
        artefact.finished(folder, "thing", "f2")


def test_the_refusal_of_other_settings_survives_the_way_from_another_process(folder):
    with pytest.raises(OtherWorkError) as raised:
        artefact.finished(folder, "thing", "f2")
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)
    assert again.what == f"{folder}: holds a finished thing made by other settings or inputs"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named(folder, damage):
    path = folder / "part" / "b.txt"
    if damage == "remove":
        path.unlink()
    else:
        path.write_text("twO" if damage == "flip" else "t")
    with pytest.raises(ArtefactError, match=r"b\.txt: (differs|listed)"):
        artefact.read_manifest(folder, "thing")


def test_another_kind_is_refused(folder):
    with pytest.raises(ArtefactError, match="holds a 'thing', not a 'codes'"):
        artefact.read_manifest(folder, "codes")


def test_fresh_keeps_the_old_folder(folder):
    begun.start_folder(folder, fresh=True)
    assert not (folder / "a.txt").exists()
    assert (folder.with_name("thing.previous") / "a.txt").read_text() == "one"


def test_a_reopened_folder_may_be_started_over(folder):
    begun.reopen(folder)
    assert artefact.finished(folder, "thing", "f1") is None
    begun.start_folder(folder, fresh=False)
    assert not (folder / "a.txt").exists()


def test_a_finished_folder_is_not_started_over_unasked(folder):
    with pytest.raises(ArtefactError, match="already finished"):
        begun.start_folder(folder, fresh=False)


def test_a_begun_folder_shows_its_mark_and_no_other_file(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    assert [path.name for path in folder.iterdir()] == [".begun.json"]
    assert artefact.write_manifest(folder, "thing")["files"] == {}
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_unfinished_remains_are_removed(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    (folder / "half").write_text("x")
    begun.start_folder(folder, fresh=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["thing", ".begun.json"]


def test_a_job_that_resumes_finds_its_remains(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    (folder / "half").write_text("x")
    begun.start_folder(folder, fresh=False, keep=True)
    assert (folder / "half").read_text() == "x"
    begun.start_folder(folder, fresh=True, keep=True)
    assert not (folder / "half").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_what_no_job_began_is_never_removed(tmp_path, fresh):
    (tmp_path / "photos").mkdir()
    begun.start_folder(tmp_path / "photos", fresh=fresh)  # an empty folder is free to take
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "webapp").mkdir()
    (tmp_path / "webapp" / "manifest.json").write_text('{"name": "app", "files": []}')
    foreign = "no job of this package began"
    for name, text in (("mine", foreign), ("file", "file: is no folder"), ("webapp", foreign)):
        with pytest.raises(ArtefactError, match=text):
            begun.start_folder(tmp_path / name, fresh=fresh)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


FOREIGN = {
    "{}": "its kind is not text",
    "[]": "it holds no fields",
    "3": "it holds no fields",
    '{"name": "app", "version": 1}': "its kind is not text",
    '{"kind": "thing", "files": {}}': "its fingerprint is not text",
    '{"kind": "thing", "fingerprint": "f"}': "its files is not a list of files",
    '{"kind": "thing", "fingerprint": "f", "files": ["a"]}': "its files is not a list of files",
    '{"kind": "thing", "fingerprint": "f", "files": {"a": null}}': "of a it holds no bytes and sha256",
    '{"kind": "thing", "fingerprint": "f", "files": {"a": {"bytes": 1}}}': "of a it holds no bytes",
}


@pytest.mark.parametrize("text", FOREIGN)
def test_a_manifest_of_another_program_or_a_damaged_one_is_named(folder, text):
    path = folder / artefact.MANIFEST
    path.write_text(text)
    expected = re.escape(f"{path}: is not the manifest of a finished folder of this package (")
    for reader in (
        lambda: artefact.stated_manifest(folder),
        lambda: artefact.read_manifest(folder, "thing"),
        lambda: artefact.check_sizes(folder),
        lambda: artefact.finished(folder, "thing", "f"),
        lambda: check_finished([str(folder)]),
    ):
        with pytest.raises(ArtefactError, match=f"{expected}{FOREIGN[text]}"):
            reader()


def test_the_fingerprint_follows_config_and_inputs(folder):
    first = artefact.fingerprint("k", {"a": 1}, [folder])
    assert first == artefact.fingerprint("k", {"a": 1}, [folder])
    assert first != artefact.fingerprint("k", {"a": 2}, [folder])
    # An input counts by its manifest: where it lies says nothing, another path does.
    moved = folder.rename(folder.with_name("moved"))
    same = artefact.fingerprint("k", {"a": [{"b": str(moved)}]}, [moved])
    moved.rename(folder)
    assert same == artefact.fingerprint("k", {"a": [{"b": str(folder)}]}, [folder])
    assert same != artefact.fingerprint("k", {"a": [{"b": str(folder.parent)}]}, [folder])
    (folder / "a.txt").write_text("three")
    artefact.write_manifest(folder, "thing", "f1")
    assert first != artefact.fingerprint("k", {"a": 1}, [folder])


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"x\.json: not valid JSON"):
        artefact.read_json(tmp_path / "x.json")


def _torch(stream):
    torch.save({"w": torch.arange(5000.0)}, stream)


def _parquet(stream):
    pyarrow.parquet.write_table(pyarrow.table({"a": list(range(5000))}), stream)


def _numpy(stream):
    stream.write(np.arange(5000, dtype=np.int64)[1000:])
    stream.write(b"end")


@pytest.mark.parametrize("write", [_torch, _parquet, _numpy])
def test_a_file_is_hashed_while_it_is_written(tmp_path, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with artefact.hashed_writer(path) as stream:
        write(stream)
        assert path.read_bytes() == b"old"
    assert stream.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stream.bytes == path.stat().st_size > 4000
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half() -> None:
        with artefact.hashed_writer(path) as stream:
            stream.write(b"new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        half()
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_hashed_file_does_not_seek(tmp_path):
    with artefact.hashed_writer(tmp_path / "file") as stream:
        with pytest.raises(io.UnsupportedOperation):
            stream.seek(0)
        with pytest.raises(io.UnsupportedOperation):
            stream.fileno()
        stream.sync()


def test_lines_are_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "lines.jsonl"
    artefact.append_line(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel takes what fits, then refuses, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            artefact.append_line(path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == '{"step": 1}\n'
    # What a killed process left half written does not swallow the next line.
    with path.open("a") as stream:
        stream.write('{"st')
    artefact.append_line(path, {"step": 3})
    lines = path.read_text().splitlines()
    assert lines == ['{"step": 1}', '{"st', '{"step": 3}']
    assert json.loads(lines[-1]) == {"step": 3}


def test_nan_is_written_into_no_json_and_into_lines_as_null_with_its_name(tmp_path: Path) -> None:
    values = {"a": 1.0, "b": [0.5, {"c": math.nan}]}
    with pytest.raises(ValueError, match=r"^b\.1\.c = NaN: is no result"):
        artefact.write_json(tmp_path / "values.json", values)
    assert not list(tmp_path.iterdir())
    # A setting, which comes back as it was.
    artefact.write_json(tmp_path / "config.json", {"limit": math.inf})
    assert artefact.read_json(tmp_path / "config.json") == {"limit": math.inf}
    path = tmp_path / "lines.jsonl"
    artefact.append_line(path, {"step": 1, "eval/psnr": math.nan, "grad": -math.inf, "kl": 0.5})
    artefact.append_line(path, {"step": 2, "eval/psnr": 20.0})
    broken, whole = (json.loads(line) for line in path.read_text().splitlines())
    assert broken == {
        "step": 1,
        "eval/psnr": None,
        "grad": None,
        "kl": 0.5,
        "not_finite": ["eval/psnr", "grad"],
    }
    assert whole == {"step": 2, "eval/psnr": 20.0}


def test_threads_that_write_one_file_at_a_time_do_not_meet(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)

    def write(text: str) -> None:
        with artefact.replacing(tmp_path / "same") as temporary:
            temporary.write_text(text)
            both.wait()
            assert temporary.read_text() == text
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))
    assert (tmp_path / "same").read_text() in ("one", "two")
    assert [item.name for item in tmp_path.iterdir()] == ["same"]
