"""Owners of folders: which process this one is, and whether another one lives.

On its own machine an owner is asked for; from another one its mark is watched, which it touches (ownership.BEAT_S):
unchanged for LEASE_S it is dead. So no two clocks are ever compared. Read next: glotok_ray/storage/marks.py
"""

import contextlib
import json
import logging
import os
import socket
import time
from pathlib import Path

from glotok_ray.storage.marks import Mark, Owner, beat_path, read_mark
from glotok_ray.storage.places import is_remote

logger = logging.getLogger(__name__)

LEASE_S = 120.0
"""More than a beat and the minute for which a client of NFS may hold a file's times."""
_LOOK_S = 0.5
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_PROCESSES = Path("/proc")

_dead: set[str] = set()
"""Tokens of marks whose owners were found dead, which need no second watch."""


def this_process() -> Owner:
    """This process as an owner, since now."""
    job = os.environ.get(_JOB_VARIABLE, "")
    with contextlib.suppress(ValueError, LookupError, TypeError):
        job = json.loads(job)["metadata"]["job_submission_id"]
    return Owner(
        host=socket.gethostname(),
        machine=machine(),
        pid=os.getpid(),
        process_start=_start(os.getpid()) or "",
        ray_job=job,
        since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def machine() -> str:
    """Boot and process namespace of this process; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def is_this(owner: Owner) -> bool:
    """Whether the owner is this very process."""
    this = this_process()
    return (owner.machine, owner.pid, owner.process_start, owner.host) == (
        this.machine,
        this.pid,
        this.process_start,
        this.host,
    )


def is_alive(folder: Path, mark: Mark) -> bool:
    """Whether another process than this one, the mark's owner, works on `folder`: by its process where that can be
    asked for, else by its beats, within LEASE_S.
    """
    assert mark.owner is not None
    if mark.token in _dead or is_this(mark.owner):
        return False
    is_here = bool(mark.owner.machine) and mark.owner.machine == machine()
    alive = _runs(mark.owner) if is_here else _is_touched(folder, mark)
    if not alive:
        _dead.add(mark.token)
    return alive


def _runs(owner: Owner) -> bool:
    """Whether a process of this machine still runs.

    Of one that /proc hides (hidepid) it is known alone that its id is in use. That counts as alive: a folder that is
    refused costs a look, and one that is taken from a living job its work.
    """
    start = _start(owner.pid)
    if start is None and _is_in_use(owner.pid):
        start = _start(owner.pid) or owner.process_start  # it has begun just now, or is hidden
    return bool(start) and start == owner.process_start


def _is_in_use(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start(pid: int) -> str | None:
    """When the process began; empty for one that has ended and is not yet fetched, None for one that is not shown."""
    try:
        fields = (_PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]


def _is_touched(folder: Path, mark: Mark) -> bool:
    logger.info("%s: begun by %s; watching its mark for up to %g s", folder, mark.owner, LEASE_S)
    deadline, first = time.monotonic() + LEASE_S, _touched(folder, mark)
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        if read_mark(folder) != mark:
            return False
        if _touched(folder, mark) != first:
            return True
    return False


def _touched(folder: Path, mark: Mark) -> int:
    """When the mark was touched last; opened first, so that a client of NFS asks its server."""
    path = beat_path(folder, mark)
    try:
        if is_remote(path):
            return path.stat().st_mtime_ns
        with path.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return 0
