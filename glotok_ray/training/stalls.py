"""Who keeps a group of ranks waiting: heartbeat files, and the ranks that are late.

Read next: glotok_ray/training/heartbeat.py, which writes them
"""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from glotok_ray.storage import artefact
from glotok_ray.storage.places import local_twin

HEARTBEAT_FOLDER = "heartbeats"
STALL_FOLDER = "stalls"
STALL_FILE = "stall.json"
FINISHED = "finished"


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The content of a heartbeat file."""

    rank: int
    host: str
    pid: int
    attempt: int
    beats: int
    """How often this process has written the file: a number that stays says that the process does not run."""
    step: int
    """Optimizer steps done by this rank in this run; -1 before its first step in this attempt."""
    phase: str
    """data, forward, backward, reduce, evaluation, checkpoint or export; "start" until the first of them.

    Under ZeRO, backward holds most reductions of gradients; reduce is the engine's step: the rest of them, the update,
    and the gathering of new weights. A GPU works behind the host: a phase says what the host waits in or has issued.
    """
    changes: int
    """Phases entered so far in this attempt."""
    phase_s: float
    """Seconds since the last change, by the rank's own clock, when the file was written."""
    changed_unix_s: float
    """Time of the last change."""


@dataclass(frozen=True, kw_only=True)
class Stall:
    """The content of stall.json: who kept a run waiting."""

    ranks: list[int]
    host: str
    """Of the first of `ranks`."""
    step: int
    phase: str
    minutes: float
    runs: bool
    """False where the file of `ranks` was not renewed: the process is stopped, or holds Python's lock in one call."""
    stacks: list[str] = field(default_factory=list)


def find_late_ranks(
    before: dict[int, Beat], after: dict[int, Beat], *, world_size: int, waited_s: float
) -> Stall:
    """Who keeps the others waiting, from two looks at all heartbeats by rank, between which each rank has had to beat.

    Ranks that did not beat come first; without such, those with the fewest phase changes.
    """
    # A larger group of the same attempt may have left files.
    after = {rank: beat for rank, beat in after.items() if rank < world_size}
    silent = [
        rank
        for rank in range(world_size)
        if rank not in after or (after[rank] == before.get(rank) and after[rank].phase != FINISHED)
    ]
    fewest = min((beat.changes for beat in after.values()), default=0)
    ranks = silent or sorted(rank for rank, beat in after.items() if beat.changes == fewest)
    first = after.get(ranks[0])
    if first is None:
        return Stall(
            ranks=ranks, host="", step=-1, phase="start", minutes=waited_s / 60, runs=False
        )
    seconds = waited_s if silent else first.phase_s
    return Stall(
        ranks=ranks,
        host=first.host,
        step=first.step,
        phase=first.phase,
        minutes=seconds / 60,
        runs=not silent,
    )


def heartbeat_path(folder: Path, rank: int) -> Path:
    """Where a rank of the run in `folder` writes its state."""
    return folder / HEARTBEAT_FOLDER / f"rank-{rank:04d}.json"


def stall_path(folder: Path, attempt: int) -> Path:
    """Where the stall of an attempt is told; the stacks lie beside it."""
    return folder / STALL_FOLDER / f"attempt-{attempt:04d}" / STALL_FILE


def stack_path(folder: Path, attempt: int, rank: int) -> Path:
    return stall_path(folder, attempt).with_name(f"rank-{rank:04d}.txt")


def held_stack_path(folder: Path, rank: int) -> Path:
    # Of a run in an object store it lies on the rank's own node.
    return local_twin(heartbeat_path(folder, rank).with_suffix(".stack.txt"))


def read_beats(folder: Path) -> list[Beat]:
    """The state of every rank that has ever written into the run's folder, by rank."""
    found = []
    for path in sorted((folder / HEARTBEAT_FOLDER).glob("rank-*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Beat(**json.loads(path.read_text())))
    return found


def beats_of(folder: Path, attempt: int) -> dict[int, Beat]:
    return {beat.rank: beat for beat in read_beats(folder) if beat.attempt == attempt}


def read_stall(folder: Path, attempt: int) -> Stall | None:
    """What stall.json of an attempt says, None without one."""
    path = stall_path(folder, attempt)
    return Stall(**artefact.read_json(path)) if path.is_file() else None
