"""Marks of begun folders: who owns one and the fingerprint of its files, replaced by exactly one of all who try.

A mark is replaced by its successor alone, made exclusively under `.begun.TOKEN.json` with the token of the one before;
tokens are never used twice. On an object store it is made by a conditional write (If-None-Match), which one of all who
try gets, and the mark's own object is written over by its newest content. Read next: glotok_ray/storage/ownership.py
"""

import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glotok_ray.storage.places import is_remote

MARK = ".begun.json"
# Of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that works on a folder."""

    host: str
    machine: str
    """Boot and process namespace, within which process ids are unique; empty where the system does not tell."""
    pid: int
    process_start: str
    """When the process began, in the kernel's ticks; with it a process id that was given again is told apart."""
    ray_job: str
    """Submission id of the Ray job; empty for a plain command."""
    since: str

    def __str__(self) -> str:
        job = f", Ray job {self.ray_job}" if self.ray_job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The content of a mark."""

    token: str
    fingerprint: str = ""
    """Fingerprint of the files in the folder; empty where no job goes on with them."""
    owner: Owner | None = None


def read_mark(folder: Path) -> Mark | None:
    """The newest mark of a folder: the one that has no successor; None where nothing was begun."""
    found = _read(folder / MARK)
    while found is not None:
        following = _read(_successor(folder, found))
        if following is None or following.token == found.token:
            return found
        found = following
    return None


def _read(path: Path) -> Mark | None:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        values = json.loads(content)
        owner = values["owner"] and Owner(**values["owner"])
        # Older versions called it a question.
        name = "fingerprint" if "fingerprint" in values else "question"
        return Mark(token=values["token"], fingerprint=values[name], owner=owner)
    except (ValueError, LookupError, TypeError):
        # Of an earlier version, or cut off: it says that the folder was begun, and nothing else. With its name in the
        # token its successor, which may be unreadable too, has another one.
        digest = hashlib.sha256(path.name.encode() + b"\0" + content).hexdigest()
        return Mark(token=f"unknown-{digest[:32]}")


def _successor(folder: Path, mark: Mark) -> Path:
    return folder / f".begun.{mark.token}.json"


def succeed(folder: Path, before: Mark | None, mark: Mark) -> bool:
    """Put `mark` in the place of `before`; False when another process has been faster."""
    if is_remote(folder):
        return _succeed_in_store(folder, before, mark)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".begun.draft.{mark.token}.json"
    path = folder / MARK if before is None else _successor(folder, before)
    try:
        draft.write_text(_text(mark))
        if not _link(draft, path):
            return False
        if read_mark(folder) != mark:  # `before` was replaced while we wrote
            if _read(path) == mark:  # without hard links another one may have taken its place
                path.unlink(missing_ok=True)
            return False
        if before is not None:
            os.replace(draft, folder / MARK)
            _remove_old(folder, mark)
        return True
    except FileNotFoundError:  # the folder was finished, or set aside, meanwhile
        return False
    finally:
        draft.unlink(missing_ok=True)


def _text(mark: Mark) -> str:
    return json.dumps(asdict(mark), indent=2) + "\n"


def _succeed_in_store(folder: Path, before: Mark | None, mark: Mark) -> bool:
    path: Any = folder / MARK if before is None else _successor(folder, before)
    try:
        path.create(_text(mark).encode())
    except FileExistsError:
        # The answer to our own write may have been lost, and the write sent again.
        if _read(path) != mark:
            return False
    if read_mark(folder) != mark:  # `before` was replaced while we wrote
        path.unlink(missing_ok=True)
        return False
    if before is not None:
        (folder / MARK).write_text(_text(mark))
        _remove_old(folder, mark)
    return True


def touch(folder: Path, mark: Mark) -> None:
    """Show that the mark's owner lives; raises OSError. An object is not touched but written, beside the mark, so that
    a late touch never undoes a takeover.
    """
    if is_remote(folder):
        beat_path(folder, mark).write_text("")
    else:
        os.utime(folder / MARK)


def beat_path(folder: Path, mark: Mark) -> Path:
    """The file whose time says when the mark's owner lived."""
    return folder / f".begun.beat.{mark.token}.json" if is_remote(folder) else folder / MARK


def remove(folder: Path, mark: Mark) -> None:
    """Remove the mark of a finished folder and what is left of those before it, unless another one is there by now."""
    if read_mark(folder) == mark:
        for path in (folder / MARK, *folder.glob(".begun.*.json")):
            path.unlink(missing_ok=True)


def _remove_old(folder: Path, mark: Mark) -> None:
    """What came before the mark: a process that still takes over one of those will find that it came too late."""
    for path in folder.glob(".begun.*.json"):
        if path != _successor(folder, mark) and not path.name.startswith(".begun.draft."):
            path.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with path.open("xb") as stream:
                stream.write(draft.read_bytes())
        except FileExistsError:
            return False
    return True
