"""What lies in a folder of images, on a disk or in an object store, by as few questions to the storage as it takes.

Read next: glotok_ray/data/folders.py
"""

import errno
import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from glotok_ray.storage.object_paths import ObjectStatus
from glotok_ray.storage.places import is_remote
from glotok_ray.storage.retries import patiently

logger = logging.getLogger(__name__)

MISSING = (errno.ENOENT, errno.ELOOP)
"""Numbers of errors that say that nothing is there."""


class FolderEntry(Protocol):
    """A file or folder as its listing tells of it; os.DirEntry is one."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        ...

    @property
    def path(self) -> str:
        """As text."""
        ...

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        ...

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """Size and time."""
        ...


class ObjectEntry(NamedTuple):
    """An object, or a prefix, with what its listing told: there is nothing more to ask."""

    name: str
    path: str
    folder: bool
    status: ObjectStatus

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a prefix."""
        return self.folder

    def stat(self, *, follow_symlinks: bool = True) -> ObjectStatus:
        """Size, time and tag."""
        return self.status


def entries_of(folder: Path, minutes: float) -> list[FolderEntry]:
    """What is not hidden in a folder, sorted by name; storage that does not answer is tried again for `minutes`.

    Raises ValueError where it may not be listed, and StorageError.
    """

    def read() -> list[FolderEntry]:
        try:
            return _objects(folder) if is_remote(folder) else _scanned(folder)
        except PermissionError as error:
            raise ValueError(
                f"{folder}: cannot be listed ({error.strerror or error}); correct its permissions"
            ) from error

    visible = patiently(read, folder, minutes=minutes, doing="listing")
    return sorted(visible, key=lambda entry: entry.name)


def files_below(folder: Path, minutes: float) -> Iterator[FolderEntry]:
    """Regular files and broken links (which count as unreadable) below a folder, at any depth.

    Of objects these are all below the prefix by one listing, a request for each thousand; raises as `entries_of`.
    """
    if is_remote(folder):
        yield from _objects_below(folder, minutes)
        return
    for entry in entries_of(folder, minutes):
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path), minutes)
        # A listing knows regular files; what else there is costs a fingerprint to the storage.
        elif cast("os.DirEntry[str]", entry).is_file(follow_symlinks=False) or _is_file_or_missing(
            entry.path
        ):
            yield entry


def is_file(entry: FolderEntry) -> bool:
    """Whether it is a file, or a link to one."""
    return not entry.folder if isinstance(entry, ObjectEntry) else os.path.isfile(entry.path)


def status_of_entry(entry: FolderEntry) -> Any:
    """Size and time, of a broken link its own; raises OSError."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return entry.stat(follow_symlinks=False)


def _scanned(folder: Path) -> list[FolderEntry]:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if entry.is_symlink() and os.path.isdir(entry.path):
            logger.warning("%s: links to folders are not followed", entry.path)
    return list(visible)


def _objects(folder: Path) -> list[FolderEntry]:
    found = cast(Any, folder).listed()
    return [
        ObjectEntry(path.name, str(path), is_folder, status)
        for path, is_folder, status in found
        if not path.name.startswith(".")
    ]


def _objects_below(folder: Path, minutes: float) -> Iterator[FolderEntry]:
    read = partial(cast(Any, folder).below)
    found = patiently(read, folder, minutes=minutes, doing="listing")
    for path, status in sorted(found.items()):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts):
            yield ObjectEntry(path.name, str(path), False, status)


def _is_file_or_missing(path: str) -> bool:
    return os.path.isfile(path) or not os.path.exists(path)
