"""Who works on an unfinished folder: one mark, `.begun.json`, with its owner and the fingerprint of its files.

An owner touches its mark every BEAT_S seconds, and looks whether it is still its own; a job that lost a folder
to another ends, and writes no manifest.

Read next: glotok_ray/storage/owners.py
"""

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glotok_ray.storage import marks, owners
from glotok_ray.storage.marks import MARK, Mark, Owner, read_mark, succeed
from glotok_ray.storage.places import move_tree

logger = logging.getLogger(__name__)

BEAT_S = 20.0
"""Several of them within `owners.LEASE_S`."""
_LOOK_S = 0.5
_TRIES = 20


class FolderLostError(RuntimeError):
    """Another job has taken over the folder of this one, which looked dead."""


_held: dict[Path, Mark] = {}
_claimants: dict[Path, int] = {}
"""The thread that claimed each; no signal reaches one beside the main thread, such as a trial's of Ray Tune."""
_lost: dict[Path, str] = {}
_holders: list[int] = []
"""The threads that are inside of `holding`, as often as they are."""
_ending = threading.Event()
"""Set while work in other threads than the main one is to end."""
_terminated = False
_lock = threading.RLock()
_beats = False


# ------------------------------------------------------------------------------------------- claims


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """What is claimed inside is given back at the end, however that comes, SIGTERM included; also a decorator for what
    a job runs. What another thread claims inside of a `holding` of its own is that one's to give back.

    Raises FolderLostError for whatever ends the work once another job has taken over one of its folders: the signal
    that a beat sends, or what the work meets in a folder that is not its own.
    """
    before, thread = set(_held), threading.get_ident()
    with _lock:
        _holders.append(thread)
    try:
        with _ending_in_order():
            yield
    except BaseException:
        check_held()
        raise
    finally:
        for folder in set(_held) - before:
            claimant = _claimants.get(folder)
            if claimant == thread or claimant not in _holders:
                give_back(folder)
        with _lock:
            _holders.remove(thread)
            if not _holders:  # before, work that goes on would take a lost folder for a free one
                _lost.clear()


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM (`ray job stop`, a scheduler, a lost folder) unwind the work; a handler that is there already stays,
    so Ray's own, which does the same.
    """
    global _terminated
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not main or callable(before):
        yield
        return

    _terminated = False
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _end:
            signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: object) -> None:
    global _terminated
    _terminated = True
    sys.exit(128 + number)


@contextlib.contextmanager
def ending_other_threads() -> Iterator[None]:
    """Inside of it `check_held` raises SystemExit in all threads but the main one, which signals do not reach."""
    _ending.set()
    try:
        yield
    finally:
        _ending.clear()


def was_terminated() -> bool:
    """Whether SIGTERM has come since the start of `holding`; inside of `ray.get` the exit code of its end is lost."""
    return _terminated


def claim(folder: Path) -> Owner | None:
    """Make this process the owner of `folder`, which is made where it is missing; returns None then, and otherwise the
    live owner, with nothing touched. Raises FolderLostError for a folder of ours that another job has taken over.
    """
    folder = folder.absolute()
    check_held(folder)
    _start_beating()
    for _ in range(_TRIES):
        found = read_mark(folder)
        if found is not None and found == _held.get(folder):
            return None
        if found is not None and found.owner is not None and owners.is_alive(folder, found):
            return found.owner
        if found is not None and read_mark(folder) != found:
            continue  # it changed while it was being watched
        mark = Mark(token=uuid.uuid4().hex, owner=owners.this_process())
        if found is not None:
            mark = replace(mark, fingerprint=found.fingerprint)
        if succeed(folder, found, mark):
            if found is not None and found.owner is not None and not owners.is_this(found.owner):
                logger.warning("%s: taken over from %s, which is gone", folder, found.owner)
            with _lock:
                _held[folder] = mark
                _claimants[folder] = threading.get_ident()
            return None
        time.sleep(_LOOK_S * int.from_bytes(os.urandom(1)) / 256)
    raise OSError(f"{folder / MARK}: cannot be written in {_TRIES} tries; look at the storage")


def live_owner(folder: Path) -> Owner | None:
    """The other process that works on `folder`; None when there is none."""
    folder = folder.absolute()
    found = read_mark(folder)
    if found is None or found.owner is None or found == _held.get(folder):
        return None
    return found.owner if owners.is_alive(folder, found) else None


def ask(folder: Path, fingerprint: str) -> None:
    """Note the fingerprint of its files in the mark of a folder that this process owns; raises FolderLostError."""
    folder = folder.absolute()
    with _lock:
        check_held(folder)
        held = _held[folder]
        mark = replace(held, token=uuid.uuid4().hex, fingerprint=fingerprint)
        if held.fingerprint != fingerprint and succeed(folder, held, mark):
            _held[folder] = mark
        check_held(folder)


def give_back(folder: Path) -> None:
    """Let go of a folder; what it holds stays begun."""
    with _lock:
        held = _let_go(folder.absolute())
    _free(folder, held)


def move(folder: Path, place: Path) -> None:
    """Rename a folder of this process, and give it back there; raises FolderLostError."""
    with _lock:  # between the two a beat would find the mark gone, or that of the next owner
        check_held(folder)
        move_tree(folder, place)
        held = _let_go(folder.absolute())
    _free(place, held)


def _let_go(folder: Path) -> Mark | None:
    _claimants.pop(folder, None)
    return _held.pop(folder, None)


def _free(folder: Path, held: Mark | None) -> None:
    with contextlib.suppress(OSError):  # what cannot be written now is taken over later
        if held is not None and read_mark(folder) == held:
            succeed(folder, held, replace(held, token=uuid.uuid4().hex, owner=None))


def finish(folder: Path) -> None:
    """Remove the mark of a folder of this process that is finished; raises FolderLostError."""
    with _lock:
        check_held(folder)
        held = _let_go(folder.absolute())
    if held is not None:
        marks.remove(folder, held)


def holds(folder: Path) -> bool:
    """Whether this process is the folder's owner."""
    return folder.absolute() in _held


def clear(folder: Path) -> None:
    """Remove the mark that a job left which was killed when its folder was finished."""
    found = read_mark(folder)
    if found is not None and not holds(folder) and live_owner(folder) is None:
        marks.remove(folder, found)


def check_held(folder: Path | None = None) -> None:
    """Raise FolderLostError when another job has taken over this folder of ours, or without one any folder of ours.

    Drivers call it wherever they wait for the next piece of work, since a job that was paused goes on before its next
    beat. Raises OSError when the mark of `folder` cannot be read; without one, storage that is away is passed over.
    Raises SystemExit in a thread that is to end (`ending_other_threads`).
    """
    if _ending.is_set() and threading.current_thread() is not threading.main_thread():
        raise SystemExit(1)
    folders = list(_held) if folder is None else [folder.absolute()]
    with _lock:
        for each in folders:
            try:
                _look(each)
            except OSError:
                if folder is not None:
                    raise
        for each in _lost if folder is None else folders:
            if each in _lost:
                raise FolderLostError(_lost[each])


def _look(folder: Path) -> bool:
    """Whether the folder is still ours; of one that another job has taken over, that is noted."""
    held = _held.get(folder)
    if held is None:
        return False
    found = read_mark(folder)
    if found == held:
        return True
    if found is None and not _is_there(folder):
        return False  # away with its storage, and perhaps back with it
    _let_go(folder)
    who = "another job, which has ended" if found is None else found.owner or "another job"
    _lost[folder] = f"{folder}: taken over by {who}, as this one did not answer; it ends"
    logger.error("%s", _lost[folder])
    return False


def _is_there(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


# ------------------------------------------------------------------------------------------- beats


def _start_beating() -> None:
    global _beats
    with _lock:
        if not _beats:
            _beats = True
            threading.Thread(target=_beat_for_ever, name="ownership", daemon=True).start()


def _forget_parents() -> None:
    """A child that was forked holds nothing, and has no thread that beats."""
    global _beats, _lock
    _held.clear()
    _claimants.clear()
    _lock = threading.RLock()
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
    with _lock:  # whoever finds that the folder is lost finds the signal on its way, too
        if _held.get(folder) != mark:
            return  # given back meanwhile
        in_thread = _claimants.get(folder) != threading.main_thread().ident
        if _look(folder):
            marks.touch(folder, mark)
        elif folder in _lost and not in_thread and callable(signal.getsignal(signal.SIGTERM)):
            # SIGINT is blocked in what Ray starts, ignored in the background, and caught by Ray Train.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
