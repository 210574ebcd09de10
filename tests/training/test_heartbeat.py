"""Heartbeats of real processes, without Ray: the late is named whether it hangs, stops or holds Python's lock."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glotok_ray.faults import parse_faults
from glotok_ray.training.heartbeat import STALL_EXIT_CODE, Attempt, WatchedHeartbeat
from glotok_ray.training.stalls import (
    Beat,
    find_late_ranks,
    heartbeat_path,
    read_beats,
    read_stall,
)

# A rank that does `steps` steps and then waits in forward, as in a collective that nobody else joins.
RANK = """
import sys, time
from pathlib import Path
from glotok_ray.training.heartbeat import Attempt, WatchedHeartbeat
folder, rank, fault, minutes, steps = sys.argv[1:]
beat = WatchedHeartbeat(Path(folder), int(rank), 2, Attempt(number=3, fault=fault), float(minutes))
for step in range(int(steps)):
    for phase in ("data", "forward", "backward", "reduce"):
        beat.enter(phase, step if phase == "data" else None)
        time.sleep(0.02)
beat.enter("data", int(steps))
beat.enter("forward")
time.sleep(600)
"""
MINUTES = 0.03


def start(folder, rank, fault="", steps=4, minutes=MINUTES):
    """A rank as a process of its own."""
    arguments = [str(folder), str(rank), fault, str(minutes), str(steps)]
    return subprocess.Popen([sys.executable, "-c", RANK, *arguments], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("kind", "runs", "stack"),
    [("hang", True, "in _hang"), ("stop", False, ""), ("hold", False, "in _hold")],
)
def test_the_rank_that_the_others_wait_for_is_named_with_its_stack(tmp_path, kind, runs, stack):
    waiting, late = start(tmp_path, 0), start(tmp_path, 1, f"{kind}:data:step=3:rank=1")
    try:
        assert waiting.wait(timeout=60) == STALL_EXIT_CODE
        if runs:
            assert late.wait(timeout=60) == STALL_EXIT_CODE
        else:
            assert late.poll() is None
    finally:
        for process in (waiting, late):
            process.kill()
            process.wait()
    stall = read_stall(tmp_path, 3)
    assert stall.ranks == [1]
    assert stall.runs is runs
    assert stall.minutes >= MINUTES
    assert stall.host
    if runs:
        assert (stall.phase, stall.step) == ("data", 3)
    text = "".join(Path(path).read_text() for path in stall.stacks)
    assert stack in text
    assert bool(stall.stacks) is bool(stack)
    # The one that waited says where, too.
    assert "<string>" in (tmp_path / "stalls" / "attempt-0003" / "rank-0000.txt").read_text()


def test_a_fault_happens_once_per_run_folder(tmp_path):
    for expected in (-signal.SIGKILL, STALL_EXIT_CODE):
        started = start(tmp_path, 0, "kill:backward:step=1", steps=2, minutes=0.02)
        assert started.wait(timeout=60) == expected


def test_the_first_step_may_take_three_times_as_long(tmp_path):
    begun = time.monotonic()
    started = start(tmp_path, 0, "hang:forward:step=0", minutes=0.02)
    assert started.wait(timeout=60) == STALL_EXIT_CODE
    assert time.monotonic() - begun >= 3 * 60 * 0.02


def test_without_a_limit_nothing_ends(tmp_path):
    started = start(tmp_path, 0, steps=1, minutes=0)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(timeout=4)
    finally:
        started.kill()
        started.wait()
    assert read_stall(tmp_path, 3) is None


def beat(rank, *, beats=5, changes=10, phase="forward"):
    """A heartbeat of step 2 that is five minutes old."""
    return Beat(
        rank=rank,
        host=f"node-{rank}",
        pid=1,
        attempt=1,
        beats=beats,
        step=2,
        phase=phase,
        changes=changes,
        phase_s=300.0,
        changed_unix_s=0.0,
    )


def test_late_ranks_are_silent_ranks_or_those_with_the_fewest_changes():
    before = {rank: beat(rank, beats=4) for rank in range(3)}
    after = {0: beat(0), 1: beat(1, changes=9, phase="data"), 2: beat(2)}
    named = find_late_ranks(before, after, world_size=3, waited_s=60)
    assert (named.ranks, named.host, named.phase, named.minutes) == ([1], "node-1", "data", 5.0)
    silent = find_late_ranks(before, after | {2: before[2]}, world_size=3, waited_s=60)
    assert (silent.ranks, silent.runs, silent.minutes) == ([2], False, 1.0)
    missing = find_late_ranks(before, after, world_size=4, waited_s=60)
    assert (missing.ranks, missing.host, missing.phase) == ([3], "", "start")
    together = find_late_ranks(
        before, {rank: beat(rank) for rank in range(3)}, world_size=3, waited_s=6
    )
    assert together.ranks == [0, 1, 2]
    # A rank that has finished writes no more.
    done = beat(2, phase="finished", changes=20)
    finished = find_late_ranks(before | {2: done}, after | {2: done}, world_size=3, waited_s=60)
    assert finished.ranks == [1]


def test_a_second_start_within_one_attempt_is_told_as_ray_trains_own(tmp_path):
    restart = {"cause": "rank 1 died", "attempt": 2, "lost_step": 3, "unix_s": 1}
    attempt = Attempt(number=2, restarts=(restart,))
    first = WatchedHeartbeat(tmp_path, 0, 1, attempt, 10)
    first.enter("data", 7)
    first.close()
    assert first.restarts == [restart]
    second = WatchedHeartbeat(tmp_path, 0, 1, attempt, 10)
    second.close()
    told = second.restarts[1]
    assert (told["lost_step"], told["attempt"]) == (7, 2)
    assert "drained or reclaimed" in told["cause"]
    third = WatchedHeartbeat(tmp_path, 0, 1, Attempt(number=3), 10)
    third.close()
    assert third.restarts == []
    (found,) = read_beats(tmp_path)
    assert (found.attempt, found.pid, found.phase) == (3, os.getpid(), "start")
    assert json.loads(heartbeat_path(tmp_path, 0).read_text())["beats"] >= 2


@pytest.mark.parametrize(
    "text", ["kill", "burn:data:step=3", "kill:data:step=x", "kill:data:rank=1"]
)
def test_a_fault_that_cannot_be_understood_is_refused(text):
    with pytest.raises(ValueError, match=r"GLOTOK_FAULT = .*KIND:POINT:step=N"):
        parse_faults(text)
