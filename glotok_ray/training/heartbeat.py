"""The heartbeat of a rank: which phase of which step it is in, on disk for all to see; a stalled rank is named.

All ranks pass the same phases in the same order, so the rank with the fewest phase changes is the one that the others
wait for. It knows neither Ray nor torch. Read next: glotok_ray/on_ray/attempts.py
"""

import contextlib
import faulthandler
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from glotok_ray.faults import parse_faults, strike
from glotok_ray.storage import artefact
from glotok_ray.storage.places import copy_file
from glotok_ray.storage.retries import patiently
from glotok_ray.training.stalls import (
    FINISHED,
    Beat,
    beats_of,
    find_late_ranks,
    heartbeat_path,
    held_stack_path,
    stack_path,
    stall_path,
)

logger = logging.getLogger(__name__)

STALL_EXIT_CODE = 75
# Start-up, compilation and the first rows take longer than any later step.
FIRST_STEP_FACTOR = 3
_INTERVAL_S = 5.0
# Intervals between two looks at the others' files; every rank that runs has written in between.
_LOOKS_APART = 3


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the driver tells the workers of one attempt at a run."""

    number: int = 1
    """Counts all attempts in the run's folder, from 1."""
    restarts: Sequence[dict[str, Any]] = ()
    """Restarts that metrics.jsonl does not tell of yet: cause, attempt, lost_step and unix_s of each."""
    fault: str = ""
    """For drills: see `glotok_ray/faults.py`."""


class _Mark(NamedTuple):
    phase: str
    step: int
    changes: int
    since: float


class Heartbeat:
    """The heartbeat of a process that nobody watches: all calls return at once."""

    restarts: Sequence[dict[str, Any]] = ()
    """What `MetricsLog.tell_restarts` is to tell; empty on all ranks but 0."""

    def enter(self, phase: str, step: int | None = None) -> None:
        """The phase begins; `step` (steps done so far) need be told at the first phase of a step alone."""

    def fault_point(self, name: str, step: int) -> None:
        """A place where a drill may let this process fail; any thread may come here, with any name."""

    def close(self) -> None:
        """Write the last state and stop watching."""


class WatchedHeartbeat(Heartbeat):
    """The heartbeat of one rank of a group, written to `heartbeats/rank-0003.json` of the run's folder every 5 s.

    When its own phase has not changed for `stall_minutes` (three times as many up to the end of the first step), it
    writes the stacks of all its threads and stall.json to `stalls/attempt-0002` and ends its process with exit code 75,
    so that the group is started again. With 0 it only beats.
    """

    def __init__(
        self, folder: Path, rank: int, world_size: int, attempt: Attempt, stall_minutes: float
    ) -> None:
        self._folder, self._rank, self._world_size = folder, rank, world_size
        self._attempt, self._stall_s = attempt, 60 * stall_minutes
        self._faults = [fault for fault in parse_faults(attempt.fault) if fault.rank == rank]
        # Short limits are for tests.
        self._interval_s = min(_INTERVAL_S, self._stall_s / 12) if self._stall_s else _INTERVAL_S
        self._beats, self._first_step = 0, -1
        self._mark = _Mark("start", -1, 0, time.monotonic())
        self._host, self._closed = socket.gethostname(), threading.Event()
        if rank == 0:
            self.restarts = [*attempt.restarts, *self._restarts_inside()]
        path = heartbeat_path(folder, rank)
        # A dump must not open a file first; it may come while Python's lock is held.
        self._held_stack = patiently(self._open, path, minutes=stall_minutes, doing="writing")
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def _open(self) -> TextIO:
        heartbeat_path(self._folder, self._rank).parent.mkdir(parents=True, exist_ok=True)
        self._beat()
        return held_stack_path(self._folder, self._rank).open("w")

    def _restarts_inside(self) -> list[dict[str, Any]]:
        """Ray Train itself starts the workers again when it sees a node drained or reclaimed."""
        number = self._attempt.number
        before = beats_of(self._folder, number)
        if 0 not in before:  # another rank's file may be of this start already
            return []
        cause = "Ray Train started the workers again (nodes came, or were drained or reclaimed)"
        lost = max(0, *(beat.step for beat in before.values()))
        found = {"cause": cause, "attempt": number, "lost_step": lost}
        return [found | {"unix_s": int(time.time())}]

    def enter(self, phase: str, step: int | None = None) -> None:
        """The phase begins; costs about a microsecond, and writes nothing."""
        mark = self._mark
        if step is None:
            step = mark.step
        elif mark.step < 0:
            self._first_step = step
        # One assignment, so that the thread never sees half of a change.
        self._mark = _Mark(phase, step, mark.changes + 1, time.monotonic())
        if self._faults:
            self.fault_point(phase, step)

    def fault_point(self, name: str, step: int) -> None:
        """A place where a drill may let this process fail."""
        for fault in self._faults:
            if (fault.point, fault.step) == (name, step):
                strike(fault, self._folder)

    def close(self) -> None:
        """Write the last state and stop watching."""
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        with contextlib.suppress(OSError):
            self._beat()
        self._held_stack.close()

    def _beat(self) -> None:
        self._beats += 1
        mark, age = self._mark, time.monotonic() - self._mark.since
        beat = Beat(
            rank=self._rank,
            host=self._host,
            pid=os.getpid(),
            attempt=self._attempt.number,
            beats=self._beats,
            step=mark.step,
            phase=mark.phase,
            changes=mark.changes,
            phase_s=age,
            changed_unix_s=time.time() - age,
        )
        with artefact.replacing(heartbeat_path(self._folder, self._rank)) as temporary:
            temporary.write_text(json.dumps(asdict(beat)) + "\n")

    def _watch(self) -> None:
        while not self._closed.wait(self._interval_s):
            if self._stall_s and not self._closed.is_set():
                # A timer of C, set back as long as this thread gets Python's lock: it writes the stacks of a process
                # that holds the lock, before the others end.
                faulthandler.dump_traceback_later(0.8 * self._stall_s, file=self._held_stack)
            with contextlib.suppress(OSError):  # storage that is away for a while stalls nobody
                self._beat()
            if self._is_over_limit(self._mark):
                self._end_if_stalled()

    def _is_over_limit(self, mark: _Mark) -> bool:
        first = mark.step in (-1, self._first_step)
        limit = self._stall_s * (FIRST_STEP_FACTOR if first else 1)
        return 0 < limit < time.monotonic() - mark.since and mark.phase != FINISHED

    def _end_if_stalled(self) -> None:
        mark = self._mark
        # First of all: the others do the same now, and the first to end ends all.
        with contextlib.suppress(OSError):
            self._dump_stacks()
        before = beats_of(self._folder, self._attempt.number)
        self._wait_beating()
        if self._mark is not mark or self._closed.is_set():
            return  # it goes on after all
        with contextlib.suppress(OSError):
            self._write_stall(before, beats_of(self._folder, self._attempt.number))
        logger.error("stalled in phase %s of step %d; this process ends", mark.phase, mark.step)
        self._wait_beating()
        os._exit(STALL_EXIT_CODE)

    def _wait_beating(self) -> None:
        for _ in range(_LOOKS_APART):
            time.sleep(self._interval_s)
            with contextlib.suppress(OSError):
                self._beat()

    def _dump_stacks(self) -> None:
        path = stack_path(self._folder, self._attempt.number, self._rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)

    def _write_stall(self, before: dict[int, Beat], after: dict[int, Beat]) -> None:
        own_s = time.monotonic() - self._mark.since
        stall = find_late_ranks(before, after, world_size=self._world_size, waited_s=own_s)
        number = self._attempt.number
        stacks = [stack_path(self._folder, number, rank) for rank in stall.ranks]
        if not stall.runs:
            for rank, stack in zip(stall.ranks, stacks, strict=True):
                held = held_stack_path(self._folder, rank)
                if held.is_file() and held.stat().st_size:
                    copy_file(held, stack)
        written = [str(path) for path in stacks if path.is_file()]
        path = stall_path(self._folder, number)
        artefact.write_json(path, asdict(stall) | {"stacks": written})
