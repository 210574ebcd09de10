"""Where files lie: a local path, or an object of a store; the one door through which configs' texts become paths.

A local path stays a plain `Path`, and is handled as ever. An address such as s3://bucket/prefix becomes an
`ObjectPath`, which has the same methods. What a store cannot do (renaming, writing in place, opening by name from C++)
has a function here or in node_cache.py. Read next: glotok_ray/storage/object_paths.py
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple, cast

from glotok_ray.storage.object_stores import answering, check_client, client, scheme_of

logger = logging.getLogger(__name__)

_LAST = ("manifest.json",)
"""Copied last and removed first, so that a folder that is half moved never looks finished."""


def to_path(text: str | Path) -> Path:
    """The path that a config's text, or a path, means: a `Path`, or for an address an `ObjectPath`, which stands for
    one in all annotations. Raises ValueError for a scheme that is not known and for a missing package.
    """
    if not isinstance(text, str):
        return text if is_remote(text) else Path(text)
    scheme = scheme_of(text)
    if not scheme:
        return Path(text)
    check_client(scheme, text)
    # Imported here: local paths need none of it.
    from glotok_ray.storage.object_paths import ObjectPath

    return cast(Path, ObjectPath(text))


def is_remote(path: object) -> bool:
    """Whether a path is an object's."""
    return not isinstance(path, str | PurePath)


def is_remote_text(text: str) -> bool:
    """Whether a config's text is the address of an object."""
    return bool(scheme_of(text))


def version_of(status: Any) -> str | int:
    """What changes with a file's content, of its status: the tag of an object where its store has one, else the time
    in nanoseconds.
    """
    return getattr(status, "etag", "") or status.st_mtime_ns


class Entry(NamedTuple):
    """What lies in a folder."""

    path: Path
    is_dir: bool


def entries(folder: Path) -> list[Entry]:
    """What lies right in a folder, sorted, by one listing; raises OSError."""
    if is_remote(folder):
        found = cast(Any, folder).listed()
        return sorted(Entry(path, is_dir) for path, is_dir, _ in found)
    return sorted(Entry(path, path.is_dir()) for path in folder.iterdir())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A local path to write the file at: `path` itself, or of an object a temporary one of the same name, which is
    sent at the end; after an exception it is not.
    """
    if not is_remote(path):
        yield path
        return
    from glotok_ray.storage.object_streams import send

    with tempfile.TemporaryDirectory(prefix="glotok-upload-") as folder:
        local = Path(folder) / path.name
        yield local
        send(local, path)


@contextlib.contextmanager
def reading_tree(folder: Path) -> Iterator[Path]:
    """A local folder with the files of `folder`: itself, or of objects a temporary copy of all."""
    if not is_remote(folder):
        yield folder
        return
    from glotok_ray.storage.object_streams import fetch

    with tempfile.TemporaryDirectory(prefix="glotok-read-") as name:
        for path in folder.rglob("*"):
            local = Path(name) / path.relative_to(folder)
            local.parent.mkdir(parents=True, exist_ok=True)
            fetch(path, local)
        yield Path(name)


@contextlib.contextmanager
def writing_tree(folder: Path) -> Iterator[Path]:
    """A local folder to write files in: `folder` itself, or of objects a temporary one whose files are sent at the
    end, whatever that is.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="glotok-upload-") as name:
        try:
            yield Path(name)
        finally:
            for path in sorted(Path(name).rglob("*")):
                if path.is_file():
                    copy_file(path, folder / path.relative_to(name).as_posix())


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Path]:
    """A local path to append a log to: `path` itself, or of an object a temporary one, whose text is added to the
    object at the end, whatever that is.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="glotok-upload-") as name:
        local = Path(name) / path.name
        try:
            yield local
        finally:
            if local.is_file():
                with path.open("ab") as stream:
                    stream.write(local.read_bytes())


def local_twin(path: Path) -> Path:
    """A local path for what no store can hold, such as a file that C code writes: `path` itself, or of an object one
    in this node's temporary folder, the same for every process of the node.
    """
    if not is_remote(path):
        return path
    digest = hashlib.sha256(str(path.parent).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"glotok-{os.getuid()}-{digest}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / path.name


def remove_tree(folder: Path, *, ignore_errors: bool = False) -> None:
    """Remove a folder and all that is in it, as shutil.rmtree does; of objects a manifest goes first."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=ignore_errors)
        return
    remote = cast(Any, folder)
    try:
        for path in sorted(remote.below(), key=lambda path: path.name not in _LAST):
            path.unlink(missing_ok=True)
    except OSError:
        if not ignore_errors:
            raise


def move_tree(folder: Path, target: Path) -> None:
    """Give a folder another name on the same storage; `target` must not be there.

    Of objects this is a copy within the store, in which manifests come last, and a removal. What cannot be removed is
    left with a warning; it has no manifest any more.
    """
    if not is_remote(folder):
        folder.rename(target)
        return
    remote, place = cast(Any, folder), cast(Any, target)
    for path in sorted(remote.below(), key=lambda path: path.name in _LAST):
        inner = place / path.relative_to(remote).as_posix()
        with answering(inner):
            client(remote.scheme).cp_file(path.key, inner.key)
    try:
        remove_tree(folder)
    except OSError as error:
        logger.warning("%s: is copied to %s and cannot be removed: %s", folder, target, error)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, as shutil.copyfile does, between any two storages."""
    if is_remote(source) or is_remote(target):
        with source.open("rb") as reader, writing(target) as local, local.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
    else:
        shutil.copyfile(source, target)
