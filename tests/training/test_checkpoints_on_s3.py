"""Checkpoints, logs and metrics of a run in an object store."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.s3_drill import TINY
from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import override
from glotok_ray.data.records import DatasetInfo
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.recipes.quickstart import quickstart
from glotok_ray.storage import artefact, node_cache
from glotok_ray.storage.object_paths import ObjectPath
from glotok_ray.storage.object_streams import ObjectLog
from glotok_ray.storage.places import (
    appending,
    copy_file,
    local_twin,
    reading_tree,
    to_path,
    writing_tree,
)
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.checkpoint import agreed_checkpoint, newest_checkpoint
from glotok_ray.training.checkpoint_writer import CheckpointWriter
from glotok_ray.training.metrics_file import last_metrics, latest_metrics
from glotok_ray.training.metrics_log import MetricsLog
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.rows_seen import RowsSeen
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.trials import TrialFiles
from glotok_ray.training.worker import LocalWorker


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture
def folder(request: Any, tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    node_cache._known_digests.clear()
    return to_path(f"s3://{BUCKET}/{request.node.name}")


def save(folder: Any, step: int, keep: int = 2) -> None:
    def add(into: Snapshot) -> None:
        into.add_state("deep/state.pt", torch.full((1000,), float(step)))

    writer = CheckpointWriter(folder, LocalWorker(), facts={"fact": 1}, keep=keep, retry_minutes=0)
    writer.save(step, add)
    writer.wait()


def test_the_newest_whole_checkpoint_is_found_and_read(folder: Any) -> None:
    for step in (1, 2, 3):
        save(folder, step)
    assert [path.name for path in folder.iterdir()] == ["step-000000002", "step-000000003"]
    newest = newest_checkpoint(folder)
    assert newest == folder / "step-000000003"
    assert agreed_checkpoint(folder, LocalWorker(), retry_minutes=0) == newest
    with reading_tree(newest) as local:
        state = torch.load(local / "deep" / "state.pt", weights_only=True)
    assert torch.equal(state, torch.full((1000,), 3.0))
    assert artefact.read_manifest(newest, "checkpoint")["step"] == 3


def test_unfinished_and_damaged_checkpoints_are_passed_over(folder: Any, caplog: Any) -> None:
    for step in (1, 2):
        save(folder, step)
    (folder / "step-000000003" / "deep" / "state.pt").write_bytes(b"half")
    (folder / ".step-000000004.partial" / "state.pt").write_bytes(b"half")
    (folder / "step-000000002" / "deep" / "state.pt").write_bytes(b"x" * 4000)
    found = agreed_checkpoint(folder, LocalWorker(), retry_minutes=0)
    assert found == folder / "step-000000001"
    assert "step-000000002/deep/state.pt: differs from its sha256" in caplog.text
    assert not (folder / ".step-000000004.partial").exists()


def test_metrics_are_read_from_the_store(folder: Any) -> None:
    for step in (1, 2):
        artefact.append_line(folder / "metrics.jsonl", {"step": step, "loss": 1.0 / step})
    assert last_metrics(folder) == latest_metrics(folder) == {"step": 2, "loss": 0.5}


def test_lines_whose_answers_are_lost_are_there_once(folder: Any, monkeypatch: Any) -> None:
    send, lost = ObjectPath.write_bytes, []

    def lose_the_first_answer(path: ObjectPath, content: bytes) -> int:
        send(path, content)
        if path.suffix == ".jsonl" and path not in lost:
            lost.append(path)
            raise OSError("the answer was lost")
        return len(content)

    monkeypatch.setattr(ObjectPath, "write_bytes", lose_the_first_answer)
    run = quickstart().generator
    plan = RunPlan(
        folder=folder,
        dataset=DatasetInfo(kind="shards", classes=("a",), num_images=8, image_size=32, shards=()),
        seed=0,
        steps_per_epoch=8,
        schedule=run.schedule,
        optimizer=run.optimizer,
        scaling=override(run.scaling, {"storage_retry_minutes": 1.0}),
    )
    seen = RowsSeen(folder, LocalWorker(), 9, audit=True, retry_minutes=1)
    seen.add(4, [MicroBatch({"x": torch.zeros(1)}, ["a"], ["torn"])])
    log = MetricsLog(plan, LocalWorker(), 0, seen)
    log.write(5, {"train/total": 5.0})
    lost.clear()
    log.tell_restarts([{"cause": "rank 1 died", "attempt": 2, "lost_step": 7, "unix_s": 1}], 5)
    trials = TrialFiles(folder / "trials", retry_minutes=1)
    # Starts are counted, and two may note the same.
    for _ in range(2):
        trials.started("trial_00", {"host": "gpu-3"})
    trials.reported("trial_00", {"step": 4, "fid": 9.0})
    lines = {
        path.relative_to(folder).as_posix(): len(path.read_text().splitlines())
        for path in folder.rglob("*.jsonl")
    }
    assert lines == {
        "audit/rank-0000.jsonl": 1,
        "bad_rows/rank-0000.jsonl": 1,
        "metrics.jsonl": 2,
        "trials/trial_00_reports.jsonl": 1,
        "trials/trial_00_starts.jsonl": 2,
    }
    log.close()


def test_logs_grow_and_keep_what_came_before_an_error(folder: Any) -> None:
    log = folder / "log.txt"
    for text in ("one", "two"):
        with appending(log) as local, local.open("a") as stream:
            stream.write(f"{text}\n")

    def fail() -> None:
        with appending(log) as local:
            local.write_text("three\n")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        fail()
    handler = ObjectLog(log)
    handler.emit(logging.makeLogRecord({"msg": "four"}))
    assert log.read_text() == "one\ntwo\nthree\nfour\n"


def test_what_c_code_writes_lies_on_the_node(folder: Any, tmp_path: Path) -> None:
    with writing_tree(folder / "tensorboard") as local:
        (local / "events").write_text("points")
    assert (folder / "tensorboard" / "events").read_text() == "points"
    twin = local_twin(folder / "heartbeats" / "rank.stack.txt")
    twin.write_text("stack")
    copy_file(twin, folder / "stack.txt")
    assert (folder / "stack.txt").read_text() == "stack"
    twin.unlink()
    assert local_twin(tmp_path / "x") == tmp_path / "x"


def test_a_tokenizer_is_read_by_its_address(folder: Any) -> None:
    changes = {name: value for name, value in TINY.items() if name.startswith("tokenizer.model.")}
    model = GloTokTokenizer(override(quickstart(), changes).tokenizer.model)
    model.save_pretrained(str(folder))
    again = GloTokTokenizer.from_pretrained(str(folder))
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
