"""Turns of two sides of which one stands still, and what becomes of their times."""

import gzip
import json
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import overhead, overhead_parts
from benchmarks.overhead_parts import (
    ACTORS,
    ALL_REDUCE,
    CONTROLLER,
    DAEMONS,
    DRIVER,
    OTHER,
    WORKERS,
)

_LOOP = """
import sys, time
while True:
    before = time.monotonic()
    time.sleep(0.05)
    print(time.monotonic() - before, flush=True)
"""


class Sleeper:
    """A side whose steps take 50 ms."""

    def __init__(self, path) -> None:
        self._path = path
        with path.open("w") as stream:
            self.process = subprocess.Popen([sys.executable, "-c", _LOOP], stdout=stream)

    def steps(self):
        return [float(line) for line in self._path.read_text().splitlines(True) if "\n" in line]

    def processes(self):
        return {psutil.Process(self.process.pid): WORKERS}


@pytest.fixture
def sleeper(tmp_path):
    side = Sleeper(tmp_path / "seconds.txt")
    yield side
    side.process.kill()
    side.process.wait()


def test_a_side_steps_in_its_turns_alone_and_a_step_that_stood_still_does_not_count(sleeper):
    overhead._wait(sleeper, 3)
    overhead._send(sleeper, overhead.signal.SIGSTOP)
    time.sleep(0.2)
    before = len(sleeper.steps())
    time.sleep(1.0)
    assert len(sleeper.steps()) == before
    seconds = overhead._turn(sleeper, 4)
    assert len(seconds) == 4
    assert max(seconds) < 1.0
    # The one that does not count has the second in it.
    assert sleeper.steps()[before] > 1.0


def test_the_overhead_is_that_of_turns_that_follow_each_other():
    slowing = overhead.Compared(
        trained=[[1.05, 1.05, 9.0], [2.1, 2.1, 2.1], [4.2, 4.2, 4.2]],
        plain=[[1.0, 1.0, 1.0], [2.0, 2.0, 0.1], [4.0, 4.0, 4.0]],
        trained_cpu=[
            {WORKERS: 2.0, DAEMONS: 0.2},
            {WORKERS: 2.1, DAEMONS: 0.1},
            {WORKERS: 9.0, DAEMONS: 0.9},
        ],
        plain_cpu=[{WORKERS: 2.0}, {WORKERS: 2.0}, {WORKERS: 0.1}],
        trained_parts={},
        plain_parts={},
    )
    assert slowing.cpu_overhead == pytest.approx(0.1)
    assert slowing.overhead == pytest.approx(0.05)


def test_processes_are_told_apart_and_those_that_come_and_go_are_counted_for_what_they_did():
    commands = {
        WORKERS: ["ray::RayTrainWorker"],
        CONTROLLER: ["ray::TrainController.run"],
        ACTORS: ["ray::IDLE"],
        DAEMONS: ["/venv/ray/raylet", "--port"],
    }
    for kind, command in commands.items():
        assert overhead_parts.kind_of(command, is_driver=False) == kind
    assert overhead_parts.kind_of(["python"], is_driver=True) == DRIVER
    before = {1: (WORKERS, 10.0), 2: (ACTORS, 5.0)}
    after = {1: (WORKERS, 14.0), 3: (ACTORS, 1.0), 4: (DAEMONS, 0.0)}
    found = overhead_parts.spent_between(before, after, 2)
    assert (found[WORKERS], found[ACTORS], found[DAEMONS]) == (2.0, 0.5, 0.0)


def test_a_trace_tells_the_parts_of_a_step(tmp_path):
    def event(name, ts, dur, cat="user_annotation"):
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}

    events = [
        event("backward", 0, 900_000),  # of a step that is not traced as a whole
        *(event(f"train step {k}", 1e6 * k, 800_000) for k in (1, 2)),
        *(event("forward", 1e6 * k + 10, 300_000) for k in (1, 2)),
        event("backward", 1e6 + 400_000, 200_000),
        event("backward", 2e6 + 400_000, 400_000),
        event("gloo:all_reduce", 2e6 + 500_000, 50_000),
        event("aten::mm", 2e6, 700_000, "cpu_op"),
        {"ph": "i", "name": "forward", "ts": 1e6},
    ]
    path = tmp_path / "trace.json.gz"
    with gzip.open(path, "wt") as stream:
        json.dump({"traceEvents": events}, stream)
    found = {
        name: seconds for name, seconds in overhead_parts.parts_of_step(path).items() if seconds
    }
    assert found == pytest.approx({"forward": 0.3, "backward": 0.3, OTHER: 0.2, ALL_REDUCE: 0.025})
