"""Runs on Ray whose workers die, hang or stop: they end well, with equal losses, and tell why they were restarted."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray.data
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from glotok_ray import config, faults
from glotok_ray.config import override
from glotok_ray.on_ray.attempts import RunFailed
from glotok_ray.on_ray.failures import explain
from glotok_ray.recipes.quickstart import chain
from glotok_ray.stages import shard_images, train_tokenizer
from glotok_ray.storage import artefact, marks
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

TWO_EPOCHS = {
    "teacher_path": "",
    "loss.relation_weight": 0.0,
    "data.num_validation_images": 0,
    "schedule.epochs": 2,
    "scaling.max_failures": 3,
    # Above what two loaded cores need for a step; three times as much for the first.
    "scaling.stall_minutes": 0.15,
    "scaling.storage_retry_minutes": 0.05,
}


def lines(folder):
    """All lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    """Step and loss of every step, shape (steps, 2)."""
    name = "train/total"
    return np.array([[line["step"], line[name]] for line in lines(folder) if name in line])


def restarts(folder):
    """The lines that tell of restarts."""
    return [line for line in lines(folder) if "event" in line]


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, tiny_quickstart, tmp_path_factory):
    """A run of ten steps with checkpoints at 5 and 10, and its losses."""
    config = chain(tiny_quickstart(tmp_path_factory.mktemp("restarts")))
    shard_images.run(config.data)
    run = override(config.tokenizer, {**TWO_EPOCHS, "name": "undisturbed"})
    train_tokenizer.run(run)
    assert restarts(Path(run.output_path) / run.name) == []
    return run, losses(Path(run.output_path) / run.name)


def test_a_run_outlives_workers_that_die_hang_and_stop(
    undisturbed, tmp_path, monkeypatch, caplog, capfd
):
    kill, hang, stop = (
        "kill:backward:step=3:rank=1",
        "hang:data:step=6",
        "stop:forward:step=7:rank=1",
    )
    monkeypatch.setenv(faults.VARIABLE, f"{kill},{hang},{stop}")
    run = override(undisturbed[0], {"output_path": str(tmp_path), "name": "run"})
    with caplog.at_level(logging.WARNING):
        assert train_tokenizer.run(run)["step"] == 10
    folder = tmp_path / "run"
    np.testing.assert_array_equal(losses(folder), undisturbed[1])
    told = restarts(folder)
    assert [line["resumed_step"] for line in told] == [0, 5, 5]
    assert [line["attempt"] for line in told] == [2, 3, 4]
    assert all(line["lost_step"] >= line["resumed_step"] for line in told)
    causes = (
        r"^rank 1 on \S+ died \(.*SIGKILL.*\)$",
        r"^rank 0 on \S+ stalled in phase data of step 6 for 0\.\d minutes; stack in (\S+)$",
        r"^rank 1 on \S+ does not run \(stopped.* waited for 0\.\d minutes; it left no stack$",
    )
    found = [re.search(cause, line["cause"]) for cause, line in zip(causes, told, strict=True)]
    assert all(found), told
    assert "in _hang" in Path(found[1][1]).read_text()
    for line in told:
        assert line["cause"] in caplog.text
    # The last attempt's folder alone stays, and nothing of Ray's is among the files of the run or on stdout.
    assert len(list((folder / "ray").iterdir())) == 1
    assert not any(
        name.startswith("stalls") for name in artefact.read_json(folder / "manifest.json")["files"]
    )
    assert capfd.readouterr().out == ""


def test_a_run_without_restarts_ends_in_one_line_and_goes_on(undisturbed, tmp_path, monkeypatch):
    run = override(
        undisturbed[0], {"output_path": str(tmp_path), "name": "run", "scaling.max_failures": 0}
    )
    monkeypatch.setenv(faults.VARIABLE, "kill:data:step=6:rank=1")
    with pytest.raises(RunFailed) as caught:
        train_tokenizer.run(run)
    text = str(caught.value)
    assert re.fullmatch(
        r"training stopped without a restart, at step [56]: rank 1 on \S+ died .*; log: (\S+); "
        "the newest checkpoint is step 5, start the same command again to go on",
        text,
    ), text
    assert "ActorDiedError" in Path(re.search(r"log: (\S+);", text)[1]).read_text()
    train_tokenizer.run(run)
    np.testing.assert_array_equal(losses(tmp_path / "run"), undisturbed[1])
    (line,) = restarts(tmp_path / "run")
    assert re.match(r"started again after the run had stopped: rank 1 on \S+ died", line["cause"])
    assert line["resumed_step"] == 5


JOB = """
import sys
from glotok_ray.storage import ownership
from jobs.train_tokenizer import main
ownership.BEAT_S = 0.5
sys.exit(main(sys.argv[1:]))
"""


def training_workers():
    """Processes of Ray Train's workers in the cluster of these tests."""
    family = psutil.Process().children(recursive=True)
    return [child for child in family if any("TrainWorker" in text for text in cmdline(child))]


def cmdline(process):
    """The command line; empty when the process has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def lose(process, folder):
    """Let another job, which is dead already, take the folder over."""
    mark = marks.read_mark(folder)
    assert marks.succeed(folder, mark, marks.Mark(token="theirs", fingerprint=mark.fingerprint))


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (lambda process, _: process.send_signal(signal.SIGINT), 130, "interrupted; the same"),
        (lambda process, _: process.send_signal(signal.SIGTERM), 143, "ended by SIGTERM; the same"),
        (lose, 1, "run: taken over by another job, as this one did not answer; it ends"),
    ],
)
def test_a_training_that_is_ended_leaves_no_worker_and_goes_on(
    undisturbed, tmp_path, monkeypatch, end, code, told
):
    run = override(undisturbed[0], {"output_path": str(tmp_path), "name": "run"})
    run = override(run, {"scaling.stall_minutes": 0.0})
    artefact.write_json(tmp_path / "run.json", config.to_dict(run))
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    folder, log = tmp_path / "run", tmp_path / "log.txt"

    def start(fault):
        command = [sys.executable, "-c", JOB, str(tmp_path / "run.json")]
        environment = os.environ | {faults.VARIABLE: fault}
        with log.open("w") as stream:
            return subprocess.Popen(
                command,
                env=environment,
                stderr=stream,
                stdout=stream,
                # As in a terminal, also where these tests run in the background, which ignores Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    process = start("hang:data:step=6")
    deadline = time.monotonic() + 120
    while not list(folder.glob("faults/*")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    assert training_workers()
    end(process, folder)
    assert process.wait(timeout=60) == code, log.read_text()
    assert training_workers() == []
    # Lines of workers, which Ray passes on, begin with a colour.
    said = [line for line in log.read_text().splitlines() if not line.startswith("\x1b")]
    assert sum(told in line for line in said if "train_tokenizer: " in line) == 1, said
    assert not any("Traceback" in line for line in said)
    assert "failed: " not in (folder / artefact.LOG_FILE).read_text()
    assert marks.read_mark(folder).owner is None
    assert start("").wait(timeout=120) == 0, log.read_text()
    np.testing.assert_array_equal(losses(folder), undisturbed[1])


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_ends_a_private_cluster_too(undisturbed, tmp_path):
    """As of SLURM, systemd or `timeout`: nothing waits for a cluster that has ended, and the run goes on."""
    run = override(undisturbed[0], {"output_path": str(tmp_path), "name": "run"})
    artefact.write_json(tmp_path / "run.json", config.to_dict(run))
    command = [sys.executable, "-c", JOB, str(tmp_path / "run.json")]
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            env=environment | {faults.VARIABLE: "hang:data:step=6"},
            stderr=stream,
            stdout=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + 180
    while not list(folder.glob("faults/*")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    started = time.monotonic()
    assert process.wait(timeout=120) == 143, log.read_text()
    # Without a look at the raylet it was a minute.
    assert time.monotonic() - started < 45
    assert log.read_text().count("train_tokenizer: ended by SIGTERM; the same command goes on") == 1
    assert "Traceback" not in log.read_text()
    done = subprocess.run(command, env=environment, capture_output=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(losses(folder), undisturbed[1])


def broken_loop(settings):
    """A worker that reads its rows, or raises what `settings` says."""
    if settings["where"] == "worker":
        raise {"storage": StorageError, "value": ValueError}[settings["what"]]("/disk/codes: away")
    for _ in ray.train.get_dataset_shard("train").iter_batches():
        pass


def broken_read(_):
    """A reader of damaged rows."""
    raise ArtefactError("/disk/shard-0007.parquet: differs from its sha256")


def missing_data():
    """A data set that is not there when the workers are to start."""
    raise ArtefactError("/disk/dataset.json: no such file")


def failed(folder, *, where, what=""):
    """What Ray raises for the loop above."""
    rows = ray.data.range(4)
    trainer = TorchTrainer(
        broken_loop,
        train_loop_config={"where": where, "what": what},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=where + what,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
        datasets={
            "train": missing_data
            if where == "start"
            else lambda: rows.map_batches(broken_read) if where == "read" else rows
        },
    )
    with pytest.raises(TrainingFailedError) as caught:
        trainer.fit()
    return caught.value


def test_errors_that_another_attempt_would_meet_are_found_in_what_ray_raises(tmp_path):
    storage = explain(failed(tmp_path, where="worker", what="storage"), tmp_path, 1)
    assert type(storage.final) is StorageError
    assert storage.cause == "/disk/codes: away"
    read = explain(failed(tmp_path, where="read"), tmp_path, 1)
    assert type(read.final) is ArtefactError
    assert read.cause == "/disk/shard-0007.parquet: differs from its sha256"
    start = explain(failed(tmp_path, where="start"), tmp_path, 1)
    assert type(start.final) is ArtefactError
    assert start.cause == "/disk/dataset.json: no such file"
    other = explain(failed(tmp_path, where="worker", what="value"), tmp_path, 1)
    assert other.final is None
    assert other.cause == "rank 0 raised ValueError: /disk/codes: away"
