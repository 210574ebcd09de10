"""The restart budget and what a driver tells and writes, with attempts that fail by order; no cluster."""

import json
import logging
import re
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayActorError
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import WorkerGroupError

from glotok_ray.config import OptimizerConfig, ScalingConfig, ScheduleConfig
from glotok_ray.data.records import DatasetInfo
from glotok_ray.on_ray.attempts import Attempts, RestartBudget, RunFailed, attempt_name
from glotok_ray.on_ray.failures import describe_stall, explain
from glotok_ray.report.metric_log import read_metric_lines
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError
from glotok_ray.training.heartbeat import WatchedHeartbeat
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.metrics_log import MetricsLog
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.preemption import NodeReclaimed
from glotok_ray.training.rows_seen import RowsSeen
from glotok_ray.training.stalls import Stall
from glotok_ray.training.worker import LocalWorker


def dead(rank=1):
    """What Ray Train raises when a rank's process has died, and rank 0 has lost its connection."""
    death = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
    lost = RuntimeError("[gloo/pair.cc:561] Connection closed by peer [127.0.0.1]:38570")
    return WorkerGroupError("several lines\nof it", {0: lost, rank: death})


def plan_of(folder, **scaling):
    """A run of 20 steps."""
    folder.mkdir(exist_ok=True)
    return RunPlan(
        folder=folder,
        dataset=DatasetInfo(kind="shards", classes=("a",), num_images=40, image_size=32, shards=()),
        seed=0,
        steps_per_epoch=5,
        schedule=ScheduleConfig(global_batch_size=8, micro_batch_size=4, epochs=4),
        optimizer=OptimizerConfig(),
        scaling=ScalingConfig(num_workers=2, **scaling),
    )


class Scripted:
    """Attempts that come to a step, save a checkpoint or not, and fail as told; the last one goes well."""

    def __init__(self, folder, *script):
        self.folder, self.script, self.attempts, self.pauses = folder, list(script), [], []

    def __call__(self, attempt):
        self.attempts.append(attempt)
        (self.folder / "ray" / attempt_name(attempt.number)).mkdir(parents=True)
        if not self.script:
            return
        step, saved, error = self.script.pop(0)
        beat = WatchedHeartbeat(self.folder, 0, 1, attempt, 0)
        if step is not None:
            beat.enter("data", step)
        beat.close()
        if saved:
            place = self.folder / "checkpoints" / f"step-{saved:09d}"
            place.mkdir(parents=True)
            (place / "part-0.pt").write_bytes(b"state")
            artefact.write_manifest(place, "checkpoint")
        raise error

    def run(self, plan, **settings):
        """All attempts of one driver."""
        Attempts(plan, sleep=self.pauses.append, **settings).run(self)


def test_a_window_slides():
    now = [0.0]
    budget = RestartBudget(2, window_minutes=60, clock=lambda: now[0])
    taken = []
    for minute in (0, 30, 40, 59.9, 60, 61, 90):
        now[0] = 60 * minute
        taken.append(budget.spend())
    assert taken == [True, True, False, False, True, False, True]
    assert budget.spent == 2
    assert not RestartBudget(0, window_minutes=60).spend()


def left():
    """What Ray Train raises when the workers have left a node that is taken back."""
    return WorkerGroupError("", {rank: NodeReclaimed("taken back") for rank in (0, 1)})


def test_a_node_that_is_taken_back_costs_no_restart(tmp_path, caplog):
    plan = plan_of(tmp_path / "run", max_failures=1)
    script = Scripted(plan.folder, (7, 5, left()), (8, 6, left()), (9, 7, dead()))
    with caplog.at_level(logging.WARNING):
        script.run(plan)
    assert [attempt.number for attempt in script.attempts] == [1, 2, 3, 4]
    assert script.pauses == [2.0, 2.0, 2.0]
    causes = [restart["cause"] for restart in script.attempts[-1].restarts]
    assert causes[0] == "a node was taken back, and the workers left it with all state saved"
    assert "restart 1 of 1" in caplog.text


def test_restarts_are_told_and_old_folders_of_ray_removed(tmp_path, caplog):
    plan = plan_of(tmp_path / "run")
    script = Scripted(plan.folder, (7, 5, dead()), (8, 0, dead()))
    with caplog.at_level(logging.WARNING):
        script.run(plan, fault="kill:data:step=1")
    assert [attempt.number for attempt in script.attempts] == [1, 2, 3]
    assert script.pauses == [2.0, 4.0]
    assert script.attempts[0].fault == "kill:data:step=1"
    told = script.attempts[2].restarts
    assert [(line["attempt"], line["lost_step"]) for line in told] == [(2, 7), (3, 8)]
    assert "attempt 2 ended at step 8: rank 1 died (its process ended" in caplog.text
    assert "restart 2 of 3 within 60 minutes, from the newest checkpoint (step 5)" in caplog.text
    (left,) = (plan.folder / "ray").iterdir()
    assert left.name.startswith("attempt-0003-")
    # A run that has ended well and goes on later tells nothing.
    again = Scripted(plan.folder)
    again.run(plan)
    assert again.attempts[0].number == 4
    assert len(again.attempts[0].restarts) == 2


def test_a_spent_budget_ends_in_one_line_and_the_next_driver_tells_it(tmp_path):
    plan = plan_of(tmp_path / "run", max_failures=1)
    script = Scripted(plan.folder, (7, 5, dead()), (9, 0, dead()))
    with pytest.raises(RunFailed) as caught:
        script.run(plan)
    text = str(caught.value)
    assert text.startswith(
        "training stopped after 1 restarts within 60 minutes, the last at step 9: rank 1 "
    )
    assert text.endswith("the newest checkpoint is step 5, start the same command again to go on")
    assert "\n" not in text
    log = plan.folder / artefact.LOG_FILE
    assert str(log) in text
    assert log.read_text().count("failed: rank 1") == 2
    assert log.read_text().count("WorkerGroupError: ") >= 2
    again = Scripted(plan.folder)
    again.run(plan)
    told = again.attempts[0].restarts[-1]
    assert told["cause"].startswith("started again after the run had stopped: rank 1")
    assert (told["attempt"], told["lost_step"]) == (3, 9)


def test_restarts_that_come_no_further_end_the_run_whatever_the_budget(tmp_path):
    plan = plan_of(tmp_path / "run", max_failures=99)
    script = Scripted(plan.folder, *[(3, 0, dead())] * 3, (4, 0, dead()), *[(2, 0, dead())] * 9)
    with pytest.raises(
        RunFailed, match=r"after 3 restarts in a row that came no further.*no checkpoint"
    ):
        script.run(plan)
    assert len(script.attempts) == 7
    script = Scripted(tmp_path / "start", *[(None, 0, dead())] * 9)
    with pytest.raises(RunFailed, match="came no further"):
        script.run(plan_of(tmp_path / "start", max_failures=99))
    assert len(script.attempts) == 4


def test_a_driver_that_ended_is_told_by_the_next(tmp_path):
    plan = plan_of(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        Scripted(plan.folder, (6, 5, KeyboardInterrupt())).run(plan)
    again = Scripted(plan.folder)
    again.run(plan)
    (told,) = again.attempts[0].restarts
    assert (told["cause"], told["lost_step"], told["attempt"]) == ("the driver ended", 6, 2)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ArtefactError("/d/a: damaged"), ArtefactError, r"^/d/a: damaged \(log: "),
        (FloatingPointError("step 3: total"), ArtefactError, r"^step 3: total \(log: "),
        (
            StorageError("/d/b: away"),
            RunFailed,
            r"^training stopped without a restart, at step 2: /d/b: away; log",
        ),
    ],
)
def test_what_another_attempt_would_meet_is_raised_at_once(tmp_path, error, kind, text):
    plan = plan_of(tmp_path / "run")
    script = Scripted(plan.folder, (2, 0, WorkerGroupError("", {0: error})))
    with pytest.raises(kind, match=text):
        script.run(plan)
    assert len(script.attempts) == 1


def test_the_cause_is_the_death_and_not_what_follows_from_it(tmp_path):
    def cause(failures):
        return explain(WorkerGroupError("", failures), tmp_path, 1).cause

    lost = RuntimeError("NCCL error: connection reset")
    own = KeyError("row")
    assert cause({0: lost, 1: lost, 2: own}) == "rank 2 raised KeyError: 'row'"
    assert cause({0: lost}).startswith("rank 0 lost another rank (RuntimeError: NCCL")
    silent = WorkerHealthCheckTimeoutError("hanging for 45 seconds")
    assert cause({0: lost, 3: silent}).startswith("rank 3 did not answer Ray Train")
    reclaimed = RayActorError()
    reclaimed._preempted = True
    error = WorkerHealthCheckFailedError("", reclaimed)
    assert cause({0: lost, 1: error}) == "rank 1 died (its node was reclaimed)"


def test_a_stall_of_many_ranks_is_one_line():
    stall = Stall(
        ranks=list(range(512)),
        host="node-0",
        step=7,
        phase="data",
        minutes=10.0,
        runs=True,
        stacks=[f"/run/stalls/attempt-0002/rank-{rank:04d}.txt" for rank in range(512)],
    )
    assert describe_stall(stall) == (
        "rank 0, 1, 2, 3, 4, 5, 6, 7 and 504 more on node-0 stalled in phase data of step 7 for 10.0 minutes; "
        "stack in /run/stalls/attempt-0002"
    )


def test_restart_lines_outlive_a_resumption_and_are_no_figures(tmp_path):
    plan = plan_of(tmp_path / "run")
    worker, restart = (
        LocalWorker(),
        {"cause": "rank 1 died", "attempt": 2, "lost_step": 7, "unix_s": 1},
    )
    seen = RowsSeen(plan.folder, worker, 0, audit=False)
    log = MetricsLog(plan, worker, 0, seen)
    for step in (5, 7):
        log.write(step, {"train/total": float(step)})
    log.close()
    for first_step in (5, 3):
        log = MetricsLog(plan, worker, first_step, seen)
        log.tell_restarts([restart], first_step)
        log.close()
    lines = [json.loads(line) for line in (plan.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 5, "event": "restart", "resumed_step": 5, **restart}]
    assert last_metrics(plan.folder) == {}
    assert read_metric_lines(plan.folder / "metrics.jsonl") == []
    log = MetricsLog(plan, worker, 3, seen)
    log.write(4, {"train/total": 4.0})
    log.close()
    assert set(last_metrics(plan.folder)) == {"step", "epoch", "train/total"}


def test_lines_and_points_outlive_storage_that_takes_nothing_for_a_while(tmp_path, caplog):
    plan = plan_of(tmp_path / "run", storage_retry_minutes=0.5)
    log = MetricsLog(plan, LocalWorker(), 0, RowsSeen(plan.folder, LocalWorker(), 0, audit=False))
    metrics, points = plan.folder / "metrics.jsonl", plan.folder / "tensorboard"
    metrics.mkdir()
    points.write_text("a file where the folder must be")
    timer = threading.Timer(0.5, metrics.rmdir)
    timer.start()
    with caplog.at_level(logging.WARNING):
        log.write(1, {"train/total": 1.0})
    timer.join()
    assert "metrics.jsonl: writing it failed" in caplog.text
    assert "step 1: TensorBoard points are lost" in caplog.text
    points.unlink()
    log.write(2, {"train/total": 2.0})
    log.close()
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]
    assert len(list(points.iterdir())) == 1


def test_a_run_whose_storage_is_gone_says_so_at_once(tmp_path):
    plan, pauses = plan_of(tmp_path / "run"), []
    logs = plan.folder / "logs"

    def start(attempt):
        # From now on nothing can be written there.
        shutil.rmtree(logs)
        logs.write_text("")
        (plan.folder / artefact.LOG_FILE).mkdir()
        raise WorkerGroupError("text", {0: StorageError("/disk/step-4: writing it failed")})

    with pytest.raises(RunFailed, match=r"without a restart.*/disk/step-4: writing it") as caught:
        Attempts(plan, sleep=pauses.append).run(start)
    assert pauses == []
    log = Path(re.search(r"log: (\S+);", str(caught.value))[1])
    assert log.parent == Path(tempfile.gettempdir())
    assert "StorageError" in log.read_text()
    log.unlink()
