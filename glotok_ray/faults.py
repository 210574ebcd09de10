"""Faults on purpose, for drills and tests alone: a process that kills, hangs, holds or stops itself at a named point.

`GLOTOK_FAULT=kill:backward:step=3:rank=1` lets rank 1 end itself by SIGKILL where step 3 enters its backward pass;
several faults are separated by commas. The driver reads the variable and hands it to the workers, so it works on every
cluster. Each fault happens once per run folder: a marker in `faults/` is made first, so the restarted attempt passes.
Drivers meet theirs at `boundary`, each time: `kill:unit:step=2` ends a batch job after its second unit.
"""

import ctypes
import errno
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

VARIABLE = "GLOTOK_FAULT"
FAULT_FOLDER = "faults"


class Fault(NamedTuple):
    """What happens, where and to whom."""

    kind: str
    """"kill" (SIGKILL), "stop" (SIGSTOP), "hang" (this thread sleeps), "hold" (it sleeps and holds the GIL), "full" (it
    raises what a full disk does).
    """
    point: str
    """A phase of `glotok_ray/training/heartbeat.py`, or another name that code passes to `Heartbeat.fault_point` or to
    `boundary`.
    """
    step: int
    """Optimizer steps done; at a boundary, units of work."""
    rank: int


def parse_faults(text: str) -> list[Fault]:
    """The faults that a text such as "hang:data:step=5:rank=0" names; raises ValueError when it names none."""
    return [_parse(item) for item in text.split(",") if item]


def _parse(item: str) -> Fault:
    found = re.fullmatch(r"(\w+):(\w+):step=(\d+)(?::rank=(\d+))?", item)
    if not found or found[1] not in _ACTIONS:
        raise ValueError(
            f"{VARIABLE} = {item!r}: must be KIND:POINT:step=N or KIND:POINT:step=N:rank=R, where KIND is one of "
            f"{', '.join(_ACTIONS)}; correct it, or unset it"
        )
    return Fault(found[1], found[2], int(found[3]), int(found[4] or 0))


def boundary(point: str, number: int = 0) -> None:
    """A place between two units of a driver's work, where its process may fail by order of the variable."""
    for fault in parse_faults(os.environ.get(VARIABLE, "")):
        if (fault.point, fault.step) == (point, number):
            _ACTIONS[fault.kind]()


def strike(fault: Fault, run_folder: Path) -> None:
    """Let the fault happen to this process, unless it has happened in this run folder before."""
    marker = run_folder / FAULT_FOLDER / f"{fault.kind}-{fault.point}-{fault.step}-{fault.rank}"
    marker.parent.mkdir(exist_ok=True)
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    _ACTIONS[fault.kind]()


def _signal_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _hang() -> None:
    while True:
        time.sleep(3600)


def _hold() -> None:
    # A call through PyDLL keeps the GIL.
    while True:
        ctypes.PyDLL(None).sleep(3600)


def _fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: _signal_self(signal.SIGKILL),
    "stop": lambda: _signal_self(signal.SIGSTOP),
    "hang": _hang,
    "hold": _hold,
    "full": _fill,
}
