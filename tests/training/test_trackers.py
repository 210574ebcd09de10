"""Trackers for real: MLflow's database and W&B's offline files, one id over restarts, and failures that end nothing."""

import dataclasses
import json
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import OptimizerConfig, ScalingConfig, ScheduleConfig, TrackingConfig
from glotok_ray.data.records import DatasetInfo
from glotok_ray.storage.places import to_path
from glotok_ray.training import trackers
from glotok_ray.training.evaluated_checkpoints import ROWS_FILE
from glotok_ray.training.metrics_log import MetricsLog
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.rows_seen import RowsSeen
from glotok_ray.training.trackers import Trackers, carried_environment, check_trackers
from glotok_ray.training.worker import LocalWorker


@pytest.fixture(autouse=True)
def _no_service(monkeypatch):
    """Nothing of this machine's own settings; W&B writes files alone."""
    for name in (*trackers.CARRIED_VARIABLES, "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    # What is sent is to arrive on a machine that has much else to do, too.
    monkeypatch.setattr(trackers, "_FINISH_S", 300.0)
    monkeypatch.setattr(trackers, "_FAILED_S", 300.0)


def plan_in(folder: Path, *names: str) -> RunPlan:
    folder.mkdir(exist_ok=True)
    config = {"seed": 3, "model": {"width": 8, "sizes": [1, 2]}}
    (folder / "config.json").write_text(json.dumps(config))
    return RunPlan(
        folder=folder,
        dataset=DatasetInfo(kind="shards", classes=("a",), num_images=8, image_size=32, shards=()),
        seed=3,
        steps_per_epoch=8,
        schedule=ScheduleConfig(global_batch_size=8, micro_batch_size=8, log_every_steps=1),
        optimizer=OptimizerConfig(),
        scaling=ScalingConfig(num_workers=1, use_gpu=False, storage_retry_minutes=0),
        tracking=TrackingConfig(trackers=names, project="tried"),
    )


def train(plan: RunPlan, steps: range, *, failed: bool = False) -> None:
    """A start of a training, as far as the log sees it: its terms are ten times the step."""
    worker = LocalWorker()
    log = MetricsLog(plan, worker, steps.start, RowsSeen(plan.folder, worker, 0, audit=False))
    for step in steps:
        log.add(step, {"total": torch.tensor(10.0 * (step + 1))}, 1e-4)
    log.close(failed=failed)


def evaluated(plan: RunPlan, step: int, value: float) -> None:
    row = {"step": step, "metrics": {"psnr": {"value": value}, "undefined": {"value": None}}}
    with (plan.folder / ROWS_FILE).open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def rows(plan: RunPlan, question: str) -> list[tuple]:
    path = plan.folder / "trackers" / "mlflow.db"
    with sqlite3.connect(path) as database:
        return database.execute(question).fetchall()


def test_mlflow_holds_one_run_over_restarts_with_its_configuration_and_numbers(tmp_path):
    plan = plan_in(tmp_path / "run", "mlflow")
    train(plan, range(0, 3), failed=True)
    assert rows(plan, "select status from runs") == [("FAILED",)]
    evaluated(plan, 2, 21.5)
    train(plan, range(2, 5))

    assert rows(plan, "select name, status from runs") == [("run", "FINISHED")]
    assert rows(plan, "select name from experiments where experiment_id != 0") == [("tried",)]
    points = rows(plan, "select distinct step, value from metrics where key = 'train/total'")
    assert sorted(points) == [(step, 10.0 * step) for step in (1, 2, 3, 4, 5)]
    assert rows(plan, "select step, value from metrics where key = 'checkpoint/psnr'") == [
        (2, 21.5)
    ]
    final = "select value from metrics where key = 'final/train/total' order by step desc"
    assert rows(plan, final)[0] == (50.0,)
    parameters = dict(rows(plan, "select key, value from params"))
    assert parameters == {"seed": "3", "model.width": "8", "model.sizes": "[1, 2]"}


def records_of(path: Path) -> list:
    """The records of a W&B file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, found, parts = path.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def test_wandb_offline_holds_one_id_over_restarts_with_configuration_and_numbers(tmp_path):
    plan = plan_in(tmp_path / "run", "wandb")
    train(plan, range(0, 2), failed=True)
    train(plan, range(1, 4))
    # Its service writes the last lines after `finish`, until it ends.
    assert not services()

    key = json.loads((plan.folder / "trackers" / "key.json").read_text())["key"]
    files = sorted(plan.folder.glob("trackers/wandb/offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{key}.wandb"] * 2
    lines, final, codes = [], {}, []
    for path in files:
        for record in records_of(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                settings = {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
                assert (record.run.run_id, record.run.project) == (key, "tried")
                assert (record.run.display_name, settings["seed"]) == ("run", 3)
                assert settings["model"] == {"width": 8, "sizes": [1, 2]}
            elif kind == "history":
                values = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                lines.append((values["step"], values["train/total"]))
            elif kind == "summary":
                final |= {item.key: json.loads(item.value_json) for item in record.summary.update}
            elif kind == "exit":
                codes.append(record.exit.exit_code)
    assert lines == [(step, 10.0 * step) for step in (1, 2, 2, 3, 4)]
    assert final["final/train/total"] == 40.0
    assert codes == [1, 0]


def test_a_service_that_does_not_answer_costs_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    plan = plan_in(tmp_path / "run", "mlflow", "wandb")
    train(plan, range(0, 4))
    told = [record for record in caplog.records if record.message.startswith("tracker ")]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "tracker mlflow: " in told[0].message
    assert "the training goes on without it" in told[0].message
    assert len((plan.folder / "metrics.jsonl").read_text().splitlines()) == 4
    # The other one goes on.
    assert list(plan.folder.glob("trackers/wandb/offline-run-*/*.wandb"))


def test_a_tracker_that_fails_in_the_middle_costs_one_warning(tmp_path, caplog):
    plan = plan_in(tmp_path / "run", "mlflow")
    log = Trackers(plan.tracking, plan.folder)
    log.log(1, {"train/total": 1.0})
    path = plan.folder / "trackers" / "mlflow.db"
    wait_until(lambda: _has_metrics(path))
    with sqlite3.connect(path) as database:
        database.execute("drop table metrics")
    for step in range(2, 9):
        log.log(step, {"train/total": 1.0})
    # It does not stand there as one that runs on.
    wait_until(lambda: rows(plan, "select status from runs") != [("RUNNING",)])
    assert rows(plan, "select status from runs") == [("FAILED",)]
    log.finish({"train/total": 1.0})
    told = [record.message for record in caplog.records if record.message.startswith("tracker ")]
    assert len(told) == 1
    assert "metrics" in told[0]


def test_rows_that_storage_does_not_give_come_with_a_later_line(tmp_path, caplog):
    plan = plan_in(tmp_path / "run", "mlflow")
    path = plan.folder / ROWS_FILE
    path.symlink_to("/proc/self/mem")  # a file whose first byte cannot be read
    with pytest.raises(OSError, match=r"."):
        path.read_bytes()
    log = Trackers(plan.tracking, plan.folder, rows_file=ROWS_FILE)
    log.log(1, {"train/total": 1.0})
    wait_until(lambda: _has_metrics(plan.folder / "trackers" / "mlflow.db"))
    path.unlink()
    evaluated(plan, 1, 21.5)
    log.log(2, {"train/total": 2.0})
    log.finish({"train/total": 2.0})
    found = "select key, step, value from metrics where key not like 'final/%'"
    assert set(rows(plan, found)) == {
        ("train/total", 1, 1.0),
        ("train/total", 2, 2.0),
        ("checkpoint/psnr", 1, 21.5),
    }
    assert rows(plan, "select status from runs") == [("FINISHED",)]
    assert not [record for record in caplog.records if record.message.startswith("tracker ")]


def test_wandb_files_of_a_run_in_a_store_are_sent_though_it_failed_in_the_middle(tmp_path, caplog):
    import wandb

    with s3_server():
        plan = dataclasses.replace(
            plan_in(tmp_path / "run", "wandb"), folder=to_path(f"s3://{BUCKET}/run")
        )
        log = Trackers(plan.tracking, plan.folder)
        log.log(1, {"train/total": 1.0})
        # The line is taken: an end in the middle of it would be torn down by the tracker's own.
        wait_until(lambda: wandb.run is not None and wandb.run.step > 0)
        wandb.finish()  # from then on it takes no line
        for step in range(2, 9):
            log.log(step, {"train/total": 1.0})
        log.finish({"train/total": 1.0})
        told = [record for record in caplog.records if record.message.startswith("tracker ")]
        assert len(told) == 1
        names = [path.name for path in (plan.folder / "trackers").rglob("*")]
        assert [name for name in names if name.endswith(".wandb")]


def services() -> list[psutil.Process]:
    """W&B's own process below this one, which its client starts."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "wandb" in child.name()]


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)


def _has_metrics(path: Path) -> bool:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return bool(database.execute("select count(*) from metrics").fetchone()[0])
    except sqlite3.Error:
        return False


def test_other_ranks_send_nothing(tmp_path):
    plan = plan_in(tmp_path / "run", "mlflow")
    worker = LocalWorker()
    worker.rank = 1
    log = MetricsLog(plan, worker, 0, RowsSeen(plan.folder, worker, 0, audit=False))
    log.close()
    assert not (plan.folder / "trackers").exists()


# ------------------------------------------------------------------------------ refused in a line


def refusal(folder, *names):
    with pytest.raises(ValueError, match=r".+") as caught:
        check_trackers(TrackingConfig(trackers=names), folder)
    return str(caught.value)


def test_a_missing_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert "pip install '.[mlflow]'" in refusal(tmp_path, "mlflow")


def test_an_unknown_tracker_and_one_named_twice_are_refused():
    with pytest.raises(ValueError, match=r"'aim' is unknown; there are mlflow, wandb"):
        TrackingConfig(trackers=("aim",))
    with pytest.raises(ValueError, match=r"names one twice"):
        TrackingConfig(trackers=("wandb", "wandb"))


def test_wandb_without_a_key_is_refused(tmp_path, monkeypatch):
    check_trackers(TrackingConfig(trackers=("wandb",)), tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    assert "WANDB_API_KEY is not set" in refusal(tmp_path, "wandb")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    check_trackers(TrackingConfig(trackers=("wandb",)), tmp_path)


def test_an_address_with_a_password_is_refused_and_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hidden@example.org/x")
    told = refusal(tmp_path, "mlflow")
    assert "MLFLOW_TRACKING_PASSWORD" in told
    assert "hidden" not in told


def test_no_key_travels_with_a_run(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t" * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://example.org")
    assert carried_environment() == {
        "MLFLOW_TRACKING_URI": "https://example.org",
        "WANDB_MODE": "offline",
    }
