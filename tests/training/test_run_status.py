"""The status of runs, from the files that trainings, drivers and owners leave: nothing is started or asked."""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import to_dict
from glotok_ray.recipes import train_generator
from glotok_ray.storage import artefact, marks, owners
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.training.run_problems import describe_status, problems
from glotok_ray.training.run_status import runs_under, status_of
from glotok_ray.training.stalls import Beat, heartbeat_path, stall_path
from jobs import status

NOW = 1_800_000_000.0
ELSEWHERE = replace(owners.this_process(), machine="another", host="gpu-3", pid=7)
LINE = {"step": 1250, "epoch": 2.0, "train/total": 0.5, "time/images_per_s": 4096.0}


def write(path: Path, values: Any, *, age_s: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    os.utime(path, (NOW - age_s, NOW - age_s))


def beat(rank: int, phase: str, changes: int, step: int) -> Beat:
    return Beat(
        rank=rank,
        host="gpu-3",
        pid=1,
        attempt=2,
        beats=3,
        step=step,
        phase=phase,
        changes=changes,
        phase_s=1.0,
        changed_unix_s=NOW,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of xar_b that another machine works on, in its second attempt."""
    folder = tmp_path / "runs" / "xar_b"
    write(folder / "config.json", to_dict(train_generator.RECIPES["xar_b"]()))
    write(folder / marks.MARK, {"token": "t", "fingerprint": "f", "owner": asdict(ELSEWHERE)})
    write(folder / "logs" / "attempt.json", {"number": 2, "state": "running", "cause": ""})
    for rank, phase, changes, step in ((0, "reduce", 9, 1260), (1, "backward", 8, 1260)):
        write(heartbeat_path(folder, rank), asdict(beat(rank, phase, changes, step)), age_s=4)
    (folder / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    for step, age in ((625, 1200), (1250, 300)):
        place = folder / "checkpoints" / f"step-{step:09d}" / artefact.MANIFEST
        write(place, {"kind": "checkpoint", "files": {}}, age_s=age)
    (folder / "checkpoints" / "step-000001300").mkdir()  # being written
    return folder


def test_a_run_at_work_tells_where_it_is(run: Path) -> None:
    found = status_of(run, now=NOW)
    assert (found.state, found.step, found.total_steps) == ("running", 1260, 500_000)
    assert (found.phase, found.restarts, found.epoch) == ("backward", 1, 2.0)
    assert found.saved == (1250, 300.0)
    assert found.seconds_left == pytest.approx((500_000 - 1260) / 2)
    assert "gpu-3" in found.owner
    assert list(problems(found, now=NOW)) == []
    line, owner = describe_status(found, now=NOW)
    assert line == (
        f"{run}: running, step 1,260 of 500,000 (0.3%), epoch 2.00, in backward, 4096 images/s, ETA 69:16:10,"
        " last checkpoint step 1,250, 5:00 ago, 1 restart  loss 0.5"
    )
    assert owner.startswith("  by process 7 on gpu-3")
    assert owner.endswith("; 2 workers on gpu-3 (2)")


def test_a_run_whose_workers_are_silent_is_a_problem(run: Path) -> None:
    for path in run.glob("heartbeats/*"):
        os.utime(path, (NOW - 600, NOW - 600))
    found = status_of(run, now=NOW)
    assert found.state == "silent"
    assert found.seconds_left is None
    assert any("no worker has given a sign for 10:00" in text for text in problems(found, now=NOW))


def test_a_mark_that_nobody_touches_is_of_a_stopped_run(run: Path) -> None:
    os.utime(run / marks.MARK, (NOW - 300, NOW - 300))
    found = status_of(run, now=NOW)
    assert (found.state, found.owner, found.seconds_left) == ("stopped", "", None)
    assert list(problems(found, now=NOW)) == ["nobody works on it; the same command goes on"]


def test_in_a_store_the_beats_beside_the_mark_are_looked_at(monkeypatch: Any) -> None:
    monkeypatch.setattr(owners, "LEASE_S", 100.0)
    with s3_server():
        folder = to_path(f"s3://{BUCKET}/status/run")
        mark = marks.Mark(token="t", fingerprint="f", owner=ELSEWHERE)
        assert marks.succeed(folder, None, mark)
        (folder / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
        # Before its first beat an owner is as old as its mark.
        begun = (folder / marks.MARK).stat().st_mtime
        assert status_of(folder, now=begun + 90).state == "running"
        assert status_of(folder, now=begun + 110).state == "stopped"
        time.sleep(2.1)  # a store tells whole seconds
        marks.touch(folder, mark)
        beaten = marks.beat_path(folder, mark).stat().st_mtime
        assert beaten > begun
        assert status_of(folder, now=begun + 100.5).state == "running"
        assert status_of(folder, now=beaten + 100.5).state == "stopped"


def test_an_owner_on_this_machine_is_looked_at(run: Path) -> None:
    mine = {"token": "t", "fingerprint": "f", "owner": asdict(owners.this_process())}
    write(run / marks.MARK, mine, age_s=10_000)
    assert status_of(run, now=NOW).state == "running"


def test_a_failed_run_tells_its_cause_and_log(run: Path) -> None:
    (run / marks.MARK).unlink()
    write(run / "logs" / "attempt.json", {"number": 4, "state": "failed", "cause": "rank 3 died"})
    found = status_of(run, now=NOW)
    assert (found.state, found.restarts) == ("failed", 3)
    assert next(problems(found)) == f"it ended: rank 3 died; log: {run / 'log.txt'}"


def test_a_finished_run_has_no_problems(run: Path) -> None:
    write(run / artefact.MANIFEST, {"kind": "generator", "fingerprint": "f", "files": {}})
    (run / marks.MARK).unlink()
    found = status_of(run, now=NOW)
    assert found.state == "finished"
    assert list(problems(found, now=NOW)) == []


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"time/data_share": 0.31}, "steps wait for their images 31% of the time"),
        ({"data/bad_rows": 3}, "3 images were broken and replaced"),
        (
            {
                "event": "restart",
                "attempt": 2,
                "unix_s": NOW - 120,
                "lost_step": 1300,
                "resumed_step": 1250,
                "cause": "rank 1 died",
            },
            "restarted 2:00 ago, from step 1300 to 1250: rank 1 died",
        ),
    ],
)
def test_what_the_log_tells_is_a_problem(run: Path, metrics: dict[str, Any], text: str) -> None:
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(LINE | metrics) + "\n")
    (problem,) = problems(status_of(run, now=NOW), now=NOW)
    assert problem.startswith(text)


def test_stalls_and_late_checkpoints_are_problems(run: Path) -> None:
    write(stall_path(run, 2), {}, age_s=60)
    for path in run.glob(f"checkpoints/*/{artefact.MANIFEST}"):
        os.utime(path, (NOW - 7200, NOW - 7200))
    late, stalled = problems(status_of(run, now=NOW), now=NOW)
    assert late == "the last checkpoint is 2:00:00 old, and one is due every 15 minutes"
    assert stalled == f"workers stalled; see {run / 'stalls' / 'attempt-0002'}"


def test_stop_after_steps_and_unknown_numbers_of_images(run: Path) -> None:
    config = to_dict(train_generator.RECIPES["xar_b"]())
    config["schedule"]["stop_after_steps"] = 2000
    write(run / "config.json", config)
    assert status_of(run, now=NOW).total_steps == 2000
    config["schedule"]["num_steps"] = 1500
    write(run / "config.json", config)
    assert status_of(run, now=NOW).total_steps == 1500
    config["schedule"]["stop_after_steps"] = config["schedule"]["num_steps"] = 0
    config["data"]["num_train_images"] = 0
    write(run / "config.json", config)
    assert status_of(run, now=NOW).total_steps == 625 * 800


def test_half_written_files_are_no_error(run: Path) -> None:
    for path in (run / "config.json", run / "logs" / "attempt.json", heartbeat_path(run, 0)):
        path.write_text('{"number": ')
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 12')
    found = status_of(run, now=NOW)
    assert (found.state, found.step, found.total_steps) == ("running", 1250, 0)
    assert describe_status(found, now=NOW)


def test_all_runs_under_a_root_are_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.parent
    other = root / "codes"
    live = {"token": "u", "fingerprint": "", "owner": asdict(owners.this_process())}
    write(other / marks.MARK, live)
    (root / "notes").mkdir()
    os.utime(run / marks.MARK, (time.time(), time.time()))
    assert list(runs_under(root)) == [other, run]
    assert status.main([str(root)]) == 0
    shown = capsys.readouterr().out
    assert f"{other}: begun" in shown
    assert f"{run}: " in shown
    write(run / "logs" / "attempt.json", {"number": 4, "state": "failed", "cause": "died"})
    (run / marks.MARK).unlink()
    assert status.main([str(root), "--json"]) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["state"] for answer in answers] == ["begun", "failed"]
    assert answers[1]["problems"][0].startswith("it ended: died")


def test_a_folder_in_which_nothing_was_begun_is_bad_input(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ArtefactError, match="no job has begun anything"):
        status_of(tmp_path)
    assert status.main([str(tmp_path)]) == 2
    assert "no job has begun anything here" in caplog.messages[-1]
