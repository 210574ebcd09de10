"""`jobs.verify`: all bytes of finished folders, a line per damaged file, and a receipt that launches trust."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glotok_ray.data.records import Row, encode_png, read_dataset, write_dataset, write_shard
from glotok_ray.storage import artefact, begun
from glotok_ray.storage.artefact import ArtefactError
from jobs import verify


def shards(folder: Path, *, rows: tuple[int, ...] = (3, 2)) -> Path:
    """A finished folder of small image shards."""
    begun.start_folder(folder, fresh=False)
    image = encode_png(np.zeros((8, 8, 3), np.uint8))
    infos = [
        write_shard(
            folder / f"part-{n:05d}.parquet", (Row(f"{n}/{i}", image, 0) for i in range(count))
        )
        for n, count in enumerate(rows)
    ]
    write_dataset(folder, classes=["a"], form="crop", image_size=8, shards=infos, details={})
    artefact.write_manifest(folder, "shards", "f")
    return folder


def same_size(path: Path) -> None:
    """Change one byte and leave size and time as they were, as a failing disk does."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_whole_folders_get_a_receipt_and_stay_finished(tmp_path: Path, capsys: Any) -> None:
    folder = shards(tmp_path / "d")
    mark = artefact.fingerprint("k", {}, [folder])
    manifest = (folder / artefact.MANIFEST).read_bytes()
    assert verify.main([str(folder)]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["kind"], answer["files"], answer["damage"]) == ("shards", 3, [])
    assert answer["bytes"] == sum(path.stat().st_size for path in folder.glob("[!vm]*"))
    receipt = json.loads((folder / artefact.RECEIPT).read_text())
    assert set(receipt["files"]) == {"part-00000.parquet", "part-00001.parquet", "dataset.json"}
    status = (folder / "dataset.json").stat()
    assert receipt["files"]["dataset.json"] == {
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    assert receipt["manifest_sha256"] == artefact.sha256_of(folder / artefact.MANIFEST)
    assert receipt["verified"].endswith("Z")
    assert receipt["versions"]["numpy"]
    assert (folder / artefact.MANIFEST).read_bytes() == manifest
    assert artefact.fingerprint("k", {}, [folder]) == mark
    assert artefact.finished(folder, "shards", "f")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (same_size, r"part-00001\.parquet: differs from its sha256 in manifest\.json; restore it"),
        (lambda path: path.write_bytes(b"x"), r"part-00001\.parquet: differs from its sha256"),
        (Path.unlink, r"part-00001\.parquet: listed in manifest\.json but missing; restore it"),
    ],
)
def test_each_damaged_file_is_a_line_and_the_receipt_goes(
    tmp_path: Path, caplog: Any, damage: Any, text: str
) -> None:
    folder = shards(tmp_path / "d")
    assert verify.main([str(folder)]) == 0
    caplog.clear()
    damage(folder / "part-00001.parquet")
    (folder / "part-00000.parquet").write_bytes(b"")
    assert verify.main([str(folder)]) == 2
    lines = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 2
    assert "part-00000.parquet: differs" in lines[0]
    assert re.search(text, lines[1])
    assert not (folder / artefact.RECEIPT).exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rows": 4}, "part-00001.parquet: holds 2 rows, but dataset.json says 4"),
        ({"sha256": "0"}, "part-00001.parquet: differs from its sha256 in dataset.json"),
        ({"file": "other.parquet"}, "other.parquet: listed in dataset.json but not in manifest"),
        ({"file": "gone.parquet"}, "gone.parquet: listed in dataset.json but missing"),
    ],
)
def test_dataset_json_is_compared_too(
    tmp_path: Path, caplog: Any, change: dict[str, Any], text: str
) -> None:
    """Files that are whole but not those that dataset.json speaks of: a folder mixed from two runs."""
    folder = shards(tmp_path / "d")
    facts = artefact.read_json(folder / "dataset.json")
    facts["shards"][1] |= change
    facts["num_images"] = sum(shard["rows"] for shard in facts["shards"])
    artefact.write_json(folder / "dataset.json", facts)
    artefact.write_manifest(folder, "shards", "f")
    (folder / "other.parquet").write_bytes((folder / "part-00001.parquet").read_bytes())
    assert verify.main([str(folder)]) == 2
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert text in line
    assert not (folder / artefact.RECEIPT).exists()


def test_a_file_that_no_longer_is_parquet_but_as_listed_is_named(
    tmp_path: Path, caplog: Any
) -> None:
    folder = shards(tmp_path / "d")
    path = folder / "part-00000.parquet"
    path.write_bytes(b"no parquet")
    facts = artefact.read_json(folder / "dataset.json")
    facts["shards"][0]["sha256"] = artefact.sha256_of(path)
    artefact.write_json(folder / "dataset.json", facts)
    artefact.write_manifest(folder, "shards", "f")
    assert verify.main([str(folder)]) == 2
    assert "part-00000.parquet: cannot be read as Parquet" in caplog.text


def test_a_run_folder_is_verified_with_its_checkpoints(tmp_path: Path, capsys: Any) -> None:
    for name in ("run", "run/checkpoints/step-1", "run/checkpoints/step-2", "run/.old.partial"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "weights").write_text(name)
    (tmp_path / "run" / "web").mkdir()
    (tmp_path / "run" / "web" / "manifest.json").write_text('{"name": "app"}')
    for name in ("run/checkpoints/step-1", "run/checkpoints/step-2", "run/.old.partial"):
        artefact.write_manifest(tmp_path / name, "checkpoint")

    def found() -> dict[str, str]:
        answer = json.loads(capsys.readouterr().out)
        return {item["folder"].removeprefix(f"{tmp_path}/"): item["kind"] for item in answer}

    steps = {f"run/checkpoints/step-{step}": "checkpoint" for step in (1, 2)}
    assert verify.main([str(tmp_path / "run")]) == 0
    assert found() == steps
    artefact.write_manifest(tmp_path / "run", "sweep", exclude=("checkpoints", "web"))
    # Named twice, read once.
    assert verify.main([str(tmp_path), str(tmp_path / "run")]) == 0
    assert found() == {"run": "sweep"} | steps


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"kind": "shards"}', '{"kind": "shards", "files": 3}', '{"fingerprint": "f"}'],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, caplog: Any, text: str) -> None:
    folder = shards(tmp_path / "d")
    (folder / artefact.MANIFEST).write_text(text)
    assert verify.main([str(folder)]) == 2
    assert f"{folder}" in caplog.text
    assert "manifest.json" in caplog.text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda files: files.clear(),
            "lists no dataset.json, which every folder of kind 'shards' has",
        ),
        (lambda files: files.pop("dataset.json"), "lists no dataset.json, which every folder"),
        (lambda files: files.update({"dataset.json": 3}), "of dataset.json it holds no bytes"),
        (
            lambda files: files["dataset.json"].update(bytes="9"),
            "of dataset.json it holds no bytes",
        ),
    ],
)
def test_a_manifest_that_lists_less_than_the_folder_holds_is_damage(
    tmp_path: Path, caplog: Any, change: Any, text: str
) -> None:
    folder = shards(tmp_path / "d")
    manifest = artefact.read_json(folder / artefact.MANIFEST)
    change(manifest["files"])
    artefact.write_json(folder / artefact.MANIFEST, manifest)
    assert verify.main([str(folder)]) == 2
    assert text in caplog.text
    assert not (folder / artefact.RECEIPT).exists()
    for reader in (
        lambda: artefact.read_manifest(folder, "shards"),
        lambda: artefact.verify_once(folder, "shards"),
        lambda: artefact.finished(folder, "shards", "f"),
        lambda: artefact.check_sizes(folder),
    ):
        with pytest.raises(ArtefactError, match=text):
            reader()


def test_a_folder_that_lists_nothing_is_no_finished_one_of_any_kind(
    tmp_path: Path, caplog: Any
) -> None:
    artefact.write_manifest(tmp_path, "sweep")
    assert verify.main([str(tmp_path)]) == 2
    assert f"{tmp_path / artefact.MANIFEST}: lists no files; restore it" in caplog.text


def test_links_to_folders_are_followed_once_and_one_to_nothing_is_told(
    tmp_path: Path, caplog: Any, capsys: Any
) -> None:
    shards(tmp_path / "runs" / "near")
    far = shards(tmp_path / "far" / "disk")
    for name, target in (
        ("linked", tmp_path / "far"),  # a folder above the finished one
        ("twice", tmp_path / "far" / "disk"),
        ("loop", tmp_path / "runs"),
    ):
        (tmp_path / "runs" / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "far" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert verify.main([str(tmp_path / "runs")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [item["folder"] for item in answer] == [
        str(tmp_path / "runs" / name) for name in ("linked/disk", "near")
    ]
    assert (far / artefact.RECEIPT).is_file()
    same_size(far / "part-00000.parquet")
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "unmounted", target_is_directory=True)
    assert verify.main([str(tmp_path / "runs")]) == 2
    assert "linked/disk/part-00000.parquet: differs from its sha256" in caplog.text
    assert f"{tmp_path / 'runs' / 'gone'}: is a link to nothing" in caplog.text


def test_folders_without_anything_finished_are_refused(tmp_path: Path, caplog: Any) -> None:
    assert verify.main([str(tmp_path)]) == 2
    assert "holds nothing finished (no manifest.json" in caplog.messages[-1]
    assert verify.main([str(tmp_path / "none")]) == 2
    assert "no such folder; correct the path" in caplog.messages[-1]


def test_folders_are_sought_here_and_in_the_root(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    shards(tmp_path / "root" / "d")
    monkeypatch.chdir(tmp_path)
    assert verify.main(["root/d"]) == 0
    assert verify.main(["d", "--storage-root", "root"]) == 0
    assert verify.main(["d"]) == 2


def test_a_launch_trusts_a_receipt_and_what_was_written_since_it_does_not(
    tmp_path: Path, caplog: Any
) -> None:
    folder = shards(tmp_path / "d")
    verify.main([str(folder)])
    same_size(folder / "part-00000.parquet")
    artefact.read_manifest(folder, "shards")  # the receipt says that it was whole
    with pytest.raises(ArtefactError, match="part-00000"):
        artefact.read_manifest(folder, "shards", every_byte=True)
    caplog.clear()
    os.utime(folder / "part-00000.parquet")
    with pytest.raises(ArtefactError, match=r"part-00000\.parquet: differs from its sha256"):
        artefact.read_manifest(folder, "shards")
    (message,) = caplog.messages
    assert "part-00000.parquet has changed since verified.json was written" in message
    assert f"python -m jobs.verify {folder}" in message


@pytest.mark.parametrize("what", ["manifest", "no json", "no fields", "a file less"])
def test_a_receipt_of_something_else_does_not_count(tmp_path: Path, what: str, caplog: Any) -> None:
    folder = shards(tmp_path / "d")
    verify.main([str(folder)])
    receipt = folder / artefact.RECEIPT
    if what == "manifest":
        path = folder / artefact.MANIFEST
        path.write_text(path.read_text() + "\n")
    elif what == "a file less":
        values = json.loads(receipt.read_text())
        del values["files"]["dataset.json"]
        receipt.write_text(json.dumps(values))
    else:
        receipt.write_text("{" if what == "no json" else "{}")
    same_size(folder / "part-00001.parquet")
    caplog.clear()
    with pytest.raises(ArtefactError, match="part-00001"):
        artefact.read_manifest(folder, "shards")
    assert len(caplog.messages) == 1


def test_a_new_manifest_removes_the_receipt(tmp_path: Path) -> None:
    folder = shards(tmp_path / "d")
    verify.main([str(folder)])
    assert set(artefact.write_manifest(folder, "shards")["files"]) == {
        *(shard.file for shard in read_dataset(folder).shards),
        "dataset.json",
    }
    assert not (folder / artefact.RECEIPT).exists()


def test_large_folders_are_taken_by_size_and_one_line_says_how_to_verify(
    tmp_path: Path, caplog: Any, monkeypatch: Any
) -> None:
    caplog.set_level("INFO")
    folder = shards(tmp_path / "d")
    size = sum(path.stat().st_size for path in folder.glob("[!vm]*"))
    monkeypatch.setattr(artefact, "SMALL_BYTES", size)
    same_size(folder / "part-00000.parquet")
    with pytest.raises(ArtefactError, match="part-00000"):
        artefact.read_manifest(folder, "shards")
    monkeypatch.setattr(artefact, "SMALL_BYTES", size - 1)
    for _ in range(3):
        artefact.read_manifest(folder, "shards")
    assert artefact.finished(folder, "shards", "f")
    (message,) = caplog.messages
    assert f"python -m jobs.verify {folder} reads all bytes" in message
    # A file that is too short or gone never passes.
    path = folder / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"part-00001\.parquet: differs"):
        artefact.read_manifest(folder, "shards")
    path.unlink()
    with pytest.raises(ArtefactError, match=r"part-00001\.parquet: listed"):
        artefact.read_manifest(folder, "shards")


def test_a_driver_verifies_once_for_its_processes(tmp_path: Path, monkeypatch: Any) -> None:
    folder = shards(tmp_path / "d")
    read: list[Path] = []
    hashed = artefact.read_files

    def counting(paths: Any) -> Any:
        read.extend(paths)
        return hashed(paths)

    monkeypatch.setattr(artefact, "read_files", counting)
    artefact.read_manifest(folder, "shards")
    artefact.read_manifest(folder, "shards")
    assert len(read) == 6
    artefact.verify_once(folder, "shards")
    assert len(read) == 9
    artefact.verify_once(folder, "shards")
    artefact.read_manifest(folder, "shards")
    assert artefact.finished(folder, "shards", "f")
    assert len(read) == 9


def test_storage_that_takes_no_receipt_is_no_error(
    tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    folder = shards(tmp_path / "d")

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(artefact, "write_json", refuse)
    assert artefact.verify_once(folder, "shards")["kind"] == "shards"
    assert verify.main([str(folder)]) == 0
    assert caplog.text.count("Read-only file system") == 2


def test_known_digests_are_taken_and_sizes_checked(tmp_path: Path) -> None:
    folder = begun.start_folder(tmp_path / "d", fresh=False)
    with artefact.hashed_writer(folder / "a") as stream:
        stream.write(b"one")
    (folder / "b").write_text("two")
    # Not read again: a digest that is told is the one that is listed.
    files = artefact.write_manifest(folder, "t", known={"a": (3, "told")})["files"]
    assert files["a"] == {"bytes": 3, "sha256": "told"}
    assert files["b"]["sha256"] == artefact.sha256_of(folder / "b")
    assert list(files) == ["a", "b"]
    with artefact.hashed_writer(folder / "a") as stream:
        stream.write(b"one")
    artefact.write_manifest(folder, "t", known={"a": (stream.bytes, stream.sha256)})
    artefact.read_manifest(folder, "t", every_byte=True)
    for name, there in (("a", 3), ("c", 0)):
        with pytest.raises(
            ArtefactError, match=f"{name}: 4 bytes were written and {there} are there"
        ):
            artefact.write_manifest(folder, "t", known={name: (4, "x")})
