"""Turns of two sides of which one stands still, and what becomes of their times."""

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import overhead

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
        return [psutil.Process(self.process.pid)]


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
        trained_cpu=[2.2, 2.2, 9.9],
        plain_cpu=[2.0, 2.0, 0.1],
    )
    assert slowing.cpu_overhead == pytest.approx(0.1)
    assert slowing.overhead == pytest.approx(0.05)
