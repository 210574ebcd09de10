"""Checkpoints written in the background: committed whole or not at all, patient with storage, verified once."""

import errno
import json
import logging
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch
import two_checkpoint_workers
from safetensors.torch import load_file, save_file
from two_workers import run_pair

from glotok_ray.config import OptimizerConfig
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError
from glotok_ray.training.checkpoint import agreed_checkpoint, newest_checkpoint
from glotok_ray.training.checkpoint_writer import CheckpointWriter
from glotok_ray.training.ema import ExponentialMovingAverage, whole_tensors
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import LocalWorker


def writer(folder: Path, *, keep: int = 9, minutes: float = 0.0) -> CheckpointWriter:
    return CheckpointWriter(
        folder, LocalWorker(), facts={"fact": 1}, keep=keep, retry_minutes=minutes
    )


def adding(value: torch.Tensor, name: str = "deep/state.pt"):
    return lambda into: into.add_state(name, value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_one(folder: Path, step: int = 3) -> None:
    one = writer(folder)
    one.save(step, adding(torch.arange(5000.0)))
    one.wait()


def test_a_checkpoint_has_the_digests_of_its_files_and_nothing_else_in_it(tmp_path):
    one = writer(tmp_path)
    assert one.take_written() is None
    stall = one.save(3, adding(torch.arange(5000.0)))
    one.wait()
    manifest = artefact.read_manifest(tmp_path / "step-000000003", "checkpoint")
    assert manifest["files"].keys() == {"deep/state.pt"}
    assert (manifest["step"], manifest["fact"]) == (3, 1)
    assert names(tmp_path) == ["step-000000003"]
    assert names(tmp_path / "step-000000003") == ["deep", "manifest.json"]
    written = one.take_written()
    assert written.step == 3
    assert written.gib * 2**30 == manifest["files"]["deep/state.pt"]["bytes"] > 20000
    assert written.seconds > 0
    assert 0 < stall < 5
    assert one.take_written() is None


def test_training_does_not_wait_for_a_slow_write_which_stays_as_it_was(tmp_path):
    one, values, slow = writer(tmp_path), torch.zeros(1000), threading.Event()

    def copy_state(into) -> None:
        into.add_state("state.pt", values)
        content = into.files["state.pt"]
        into.files["state.pt"] = lambda stream: (slow.wait(60), content(stream))

    assert one.save(1, copy_state) < 5
    values += 1
    assert names(tmp_path) in ([], [".step-000000001.partial"])
    assert one.take_written() is None
    slow.set()
    # The second one waits for the first, whose memory it takes.
    one.save(2, copy_state)
    one.wait()
    for step in (1, 2):
        stored = torch.load(tmp_path / f"step-00000000{step}" / "state.pt", weights_only=True)
        assert torch.equal(stored, torch.full((1000,), step - 1.0))


def test_the_newest_are_kept_and_later_ones_go(tmp_path):
    for step in (1, 2, 3, 7):
        save_one(tmp_path, step)
    one = writer(tmp_path, keep=2)
    one.save(4, adding(torch.zeros(1)))
    one.wait()
    assert names(tmp_path) == ["step-000000003", "step-000000004"]


def test_an_error_reaches_training_at_the_next_wait_and_names_the_path(tmp_path):
    save_one(tmp_path, 1)
    one = writer(tmp_path)
    # A file where the folder must be: no user, not even root, can make it.
    (tmp_path / ".step-000000002.partial").write_text("")
    one.save(2, adding(torch.zeros(1)))
    with pytest.raises(StorageError, match=r"step-000000002\.partial/deep/state\.pt: writing it"):
        one.save(3, adding(torch.zeros(1)))
    assert newest_checkpoint(tmp_path).name == "step-000000001"
    assert "step-000000003" not in names(tmp_path)


def test_an_error_that_no_storage_makes_is_not_tried_again(tmp_path):
    one = writer(tmp_path, minutes=60)

    def broken(_) -> None:
        raise KeyError("a bug")

    one.save(2, lambda into: into.files.update({"x": broken}))
    with pytest.raises(KeyError, match="a bug"):
        one.wait()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_tried_again_until_there_is_space(small_disk, caplog):
    (small_disk / "ballast").write_bytes(bytes(900_000))
    folder = small_disk / "checkpoints"
    folder.mkdir()
    one = writer(folder, minutes=1)
    with caplog.at_level(logging.WARNING):
        one.save(1, adding(torch.arange(100_000.0)))
        one._thread.join(1.5)
        assert one._thread.is_alive()
        (small_disk / "ballast").unlink()
        one.wait()
    assert os.strerror(errno.ENOSPC) in caplog.text
    stored = torch.load(folder / "step-000000001" / "deep" / "state.pt", weights_only=True)
    assert torch.equal(stored, torch.arange(100_000.0))
    artefact.read_manifest(folder / "step-000000001", "checkpoint")


def test_a_disk_that_stays_full_ends_the_run_and_leaves_the_older_checkpoint(small_disk):
    save_one(small_disk, 1)
    one = writer(small_disk, minutes=0.01)
    one.save(2, adding(torch.zeros(500_000)))
    with pytest.raises(StorageError, match=rf"state\.pt.*{os.strerror(errno.ENOSPC)}"):
        one.wait()
    assert newest_checkpoint(small_disk).name == "step-000000001"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped": (lambda path: flip(path / "deep" / "state.pt"), "differs from its sha256"),
    "truncated": (lambda path: os.truncate(path / "deep" / "state.pt", 100), "holds 100 bytes"),
    "missing": (lambda path: (path / "deep" / "state.pt").unlink(), "missing"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "no such file"),
    "half a manifest": (lambda path: os.truncate(path / "manifest.json", 50), "not valid JSON"),
    "no file list": (lambda path: (path / "manifest.json").write_text("[3]"), "not the manifest"),
    "no digest": (
        lambda path: (path / "manifest.json").write_text(
            (path / "manifest.json").read_text().replace("sha256", "sha255")
        ),
        "not the manifest",
    ),
    "binary": (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_by_name(tmp_path, kind, caplog):
    for step in (1, 2):
        save_one(tmp_path, step)
    (tmp_path / ".step-000000009.partial").mkdir()
    damage, message = DAMAGE[kind]
    damage(tmp_path / "step-000000002")
    with caplog.at_level(logging.WARNING):
        found = agreed_checkpoint(tmp_path, LocalWorker(), retry_minutes=0)
    assert found == tmp_path / "step-000000001"
    assert message in caplog.text
    assert "step-000000002" in caplog.text
    assert newest_checkpoint(tmp_path) == found
    assert names(tmp_path) == ["step-000000001", "step-000000002"]
    # The launcher looks at sizes alone.
    launcher = newest_checkpoint(tmp_path, verify=False)
    assert (launcher == found) == (kind != "flipped")
    shutil.rmtree(tmp_path / "step-000000001")
    assert agreed_checkpoint(tmp_path, LocalWorker(), retry_minutes=0) is None


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What two workers left and said."""
    folder = tmp_path_factory.mktemp("pair")
    run_pair(Path(two_checkpoint_workers.__file__), folder)
    return folder, [json.loads((folder / f"answers-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_workers_write_one_checkpoint(pair):
    folder, answers = pair
    manifest = artefact.read_manifest(folder / "whole" / "step-000000001", "checkpoint")
    assert sorted(manifest["files"]) == ["part-0.pt", "part-1.pt", "shared/0.pt", "shared/1.pt"]
    assert names(folder / "whole" / "step-000000001") == [
        "manifest.json",
        "part-0.pt",
        "part-1.pt",
        "shared",
    ]
    total = sum(facts["bytes"] for facts in manifest["files"].values())
    assert answers[0]["gib"] * 2**30 == total


def test_two_workers_agree_and_read_each_file_once(pair):
    _, answers = pair
    assert [answer["agreed"] for answer in answers] == [1, 1]
    read = sorted(answers[0]["read"] + answers[1]["read"])
    files = ("part-0.pt", "part-1.pt", "shared/0.pt", "shared/1.pt")
    expected = [f"step-00000000{step}/{name}" for step in (1, 2) for name in files]
    assert read == expected
    assert len(answers[0]["read"]) == len(answers[1]["read"]) == 4


def test_when_one_worker_cannot_write_all_stop(pair):
    folder, answers = pair
    assert "part-1.pt: writing it failed" in answers[1]["failed"]
    assert "worker 1 failed" in answers[0]["failed"]
    assert names(folder / "failed") == [".step-000000001.partial"]


def test_a_worker_that_writes_nothing_is_named_and_nobody_waits_forever(pair):
    folder, answers = pair
    assert "worker 1 wrote no part of it within" in answers[0]["silent"]
    assert "worker 0 could not write" in answers[1]["silent"]
    assert names(folder / "silent") == [".step-000000001.partial"]


def test_weights_that_are_not_finite_become_no_checkpoint_and_the_older_one_stays(tmp_path):
    save_one(tmp_path, 1)
    engine = TorchEngine(torch.nn.Linear(3, 2), OptimizerConfig(), 1)
    average = ExponentialMovingAverage(engine, 0.9)
    for place, copy_state in (
        (engine.module.weight.data, lambda into: engine.snapshot(into.within("generator"))),
        (average._shards[0], lambda into: average.snapshot(into, 0)),
        (
            engine.module.weight.data,
            lambda into: into.add_weights("tokenizer.safetensors", whole_tensors(engine)),
        ),
    ):
        one, kept = writer(tmp_path), place.clone()
        place[0, 1] = torch.nan
        one.save(2, copy_state)
        with pytest.raises(
            ArtefactError, match=r"1 of its tensors .*\(1 of 6 values\).*go on from"
        ):
            one.wait()
        assert newest_checkpoint(tmp_path).name == "step-000000001"
        place.copy_(kept)


@pytest.mark.parametrize("what", ["engine", "average"])
def test_a_checkpoint_with_weights_that_are_not_finite_is_not_gone_on_from(tmp_path, what):
    """As an older version may have left it."""
    engine = TorchEngine(torch.nn.Linear(3, 2), OptimizerConfig(), 1)
    average = ExponentialMovingAverage(engine, 0.9)
    holder = engine if what == "engine" else average
    copies = Snapshot()
    engine.snapshot(copies)
    average.snapshot(copies, 0)
    copies.write(tmp_path)
    if what == "engine":
        name = "engine.pt"
        state = torch.load(tmp_path / name, weights_only=True)
        state["module"]["weight"][1, 1] = torch.inf
        torch.save(state, tmp_path / name)
    else:
        name = "average-0000.safetensors"
        pieces = load_file(tmp_path / name)
        pieces["average:0:weight"][4] = torch.inf
        save_file(pieces, tmp_path / name)
    before = engine.module.weight.detach().clone()
    with pytest.raises(ArtefactError, match=rf"{name[:7]}\S+: .*remove the checkpoint's folder"):
        holder.load(tmp_path)
    assert torch.equal(engine.module.weight, before)
