"""Who works on an unfinished folder: one mark, `.begun.json`, that names its owner and what the files answer.

An owner is a process. On its own machine it is asked for; from another one its mark is watched, which it touches every
BEAT_S seconds: unchanged for LEASE_S it is dead, and its folder is taken over. So no two clocks are ever compared.

Read next: glotok_ray/marks.py
"""

import atexit
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glotok_ray.marks import MARK, Mark, Owner, read_mark, succeed

logger = logging.getLogger(__name__)

BEAT_S = 20.0
LEASE_S = 120.0
"""More than a beat and the minute for which a client of NFS may hold a file's times."""
_LOOK_S = 0.5
_TRIES = 20
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class FolderLostError(RuntimeError):
    """Another job has taken over the folder of this one, which looked dead."""


_held: dict[Path, Mark] = {}
_lost: dict[Path, str] = {}
_dead: set[str] = set()
_lock = threading.RLock()
_beats = False


# ------------------------------------------------------------------------------------------- claims


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """What is claimed inside is given back at the end, however that comes; also a decorator for what a job runs.

    Raises FolderLostError when the work was interrupted because another job has taken over one of its folders.
    """
    before = set(_held)
    try:
        yield
    except KeyboardInterrupt:
        if _lost:
            raise FolderLostError(_lost.popitem()[1]) from None
        raise
    finally:
        for folder in set(_held) - before:
            give_back(folder)


def claim(folder: Path) -> Owner | None:
    """Make this process the owner of `folder`, which is made where it is missing; returns None then, and otherwise the
    live owner, with nothing touched.
    """
    folder = folder.absolute()
    _start_beating()
    for _ in range(_TRIES):
        found = read_mark(folder)
        if found is not None and found == _held.get(folder):
            return None
        if found is not None and found.owner is not None and _lives(folder, found):
            return found.owner
        if found is not None and read_mark(folder) != found:
            continue  # it changed while it was being watched
        mark = Mark(token=uuid.uuid4().hex, owner=_this_process())
        if found is not None:
            mark = replace(mark, question=found.question)
        if succeed(folder, found, mark):
            if found is not None and found.owner is not None and not _is_ours(found.owner):
                logger.warning("%s: taken over from %s, which is gone", folder, found.owner)
            with _lock:
                _held[folder] = mark
            return None
        time.sleep(_LOOK_S * int.from_bytes(os.urandom(1)) / 256)
    raise OSError(f"{folder / MARK}: cannot be written in {_TRIES} tries; look at the storage")


def live_owner(folder: Path) -> Owner | None:
    """The other process that works on `folder`; None when there is none."""
    folder = folder.absolute()
    found = read_mark(folder)
    if found is None or found.owner is None or found == _held.get(folder):
        return None
    return found.owner if _lives(folder, found) else None


def ask(folder: Path, question: str) -> None:
    """Note in the mark of a folder that this process owns what its files answer."""
    folder = folder.absolute()
    with _lock:
        held = _held[folder]
        mark = replace(held, token=uuid.uuid4().hex, question=question)
        if held.question != question and succeed(folder, held, mark):
            _held[folder] = mark


def give_back(folder: Path, moved_to: Path | None = None) -> None:
    """Let go of a folder, which may lie elsewhere by now; what it holds stays begun."""
    folder = folder.absolute()
    place = moved_to or folder
    with _lock:
        held = _held.pop(folder, None)
    with contextlib.suppress(OSError):  # what cannot be written now is taken over later
        if held is not None and read_mark(place) == held:
            succeed(place, held, replace(held, token=uuid.uuid4().hex, owner=None))


def finish(folder: Path) -> None:
    """Remove the mark of a folder that is finished."""
    with _lock:
        _held.pop(folder.absolute(), None)
    for path in (folder / MARK, *folder.glob(".begun.*.json")):
        path.unlink(missing_ok=True)


def holds(folder: Path) -> bool:
    """Whether this process is the folder's owner."""
    return folder.absolute() in _held


def clear(folder: Path) -> None:
    """Remove the mark that a job left which was killed when its folder was finished."""
    if read_mark(folder) is not None and not holds(folder) and live_owner(folder) is None:
        finish(folder)


def check_held(folder: Path) -> None:
    """Raise FolderLostError when another job has taken over this folder of ours."""
    text = _lost.get(folder.absolute())
    if text:
        raise FolderLostError(text)


# ------------------------------------------------------------------------------------------- lives


def _this_process() -> Owner:
    job = os.environ.get(_JOB_VARIABLE, "")
    with contextlib.suppress(ValueError, LookupError, TypeError):
        job = json.loads(job)["metadata"]["job_submission_id"]
    return Owner(
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        process_start=_process_start(os.getpid()),
        ray_job=job,
        since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When the process began; empty for one that is not there, or has ended and is not yet fetched."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_ours(owner: Owner) -> bool:
    this = _this_process()
    return (owner.machine, owner.pid, owner.process_start) == (
        this.machine,
        this.pid,
        this.process_start,
    ) and owner.host == this.host


def _lives(folder: Path, mark: Mark) -> bool:
    """Whether the owner still works: by its process where that can be seen, else by its beats, within LEASE_S."""
    assert mark.owner is not None
    if mark.token in _dead or _is_ours(mark.owner):
        return False
    if mark.owner.machine and mark.owner.machine == _machine():
        alive = _process_start(mark.owner.pid) == mark.owner.process_start
    else:
        alive = _is_touched(folder, mark)
    if not alive:
        _dead.add(mark.token)
    return alive


def _is_touched(folder: Path, mark: Mark) -> bool:
    logger.info("%s: begun by %s; watching its mark for up to %g s", folder, mark.owner, LEASE_S)
    deadline, first = time.monotonic() + LEASE_S, _touched(folder)
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        if read_mark(folder) != mark:
            return False
        if _touched(folder) != first:
            return True
    return False


def _touched(folder: Path) -> int:
    """When the mark was touched last; opened first, so that a client of NFS asks its server."""
    try:
        with (folder / MARK).open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return 0


def _start_beating() -> None:
    global _beats
    with _lock:
        if not _beats:
            _beats = True
            threading.Thread(target=_beat_for_ever, name="ownership", daemon=True).start()


def _forget_parents() -> None:
    """A child that was forked holds nothing, and has no thread that beats."""
    global _beats
    _held.clear()
    _beats = False


@atexit.register
def _give_all_back() -> None:
    for folder in list(_held):
        give_back(folder)


os.register_at_fork(after_in_child=_forget_parents)


def _beat_for_ever() -> None:
    while True:
        time.sleep(BEAT_S)
        for folder, mark in list(_held.items()):
            with contextlib.suppress(
                OSError
            ):  # storage that is away for a while ends nobody's work
                _beat(folder, mark)


def _beat(folder: Path, mark: Mark) -> None:
    with _lock:
        if _held.get(folder) != mark:
            return  # given back meanwhile
        found = read_mark(folder)
        if found == mark:
            os.utime(folder / MARK)
        if found is None or found == mark:
            return
        del _held[folder]
        _lost[folder] = (
            f"{folder}: taken over by {found.owner or 'another job'}, as this one did not answer; it ends"
        )
    logger.error("%s", _lost[folder])
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
