"""Stretches of a file by offset and size, wherever it lies: `pread` of a local one, ranged requests of an object.

Errors of both have the numbers of errno, so that one rule says what is the file's own fault and what is storage's.
Read next: glotok_ray/storage/places.py
"""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from glotok_ray.storage.object_stores import answering, client
from glotok_ray.storage.places import is_remote

AHEAD_BYTES = 8 << 20
"""Read at once of an object that is read in order: some 70 images of ImageNet."""
_FIRST_BYTES = 64 << 10
# Readers look back at a sample's label after the header of the next one.
_HELD = 2


class Stretches(Protocol):
    """An open file."""

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes at an offset; fewer at the end. Raises OSError."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


def open_stretches(path: Path) -> Stretches:
    """A file of which many stretches are read, mostly in order; raises OSError."""
    return ObjectInOrder(path) if is_remote(path) else LocalStretches(path)


def read_stretch(path: Path, offset: int, size: int) -> bytes:
    """Bytes at an offset of a file, by one request where it is an object; fewer at the end. Raises OSError."""
    if is_remote(path):
        return _requested(path, offset, size)
    stretches = LocalStretches(path)
    try:
        return stretches.read_at(offset, size)
    finally:
        stretches.close()


def by_name_or_stream(path: Path) -> Any:
    """What libraries take that read stretches of their own choice: a local file's name, or an object's stream."""
    return ObjectStream(path) if is_remote(path) else str(path)


class LocalStretches:
    """A local file."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb", buffering=0)

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        return os.fstat(self._stream.fileno()).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes at an offset; fewer at the end. Raises OSError."""
        return os.pread(self._stream.fileno(), size, offset)

    def close(self) -> None:
        """Let it go."""
        self._stream.close()


class ObjectInOrder:
    """An object that is read mostly in order, as a tar's headers are.

    While readings follow each other within AHEAD_BYTES, so much is requested at once and what lies between is read,
    too; else _FIRST_BYTES are. ImageNet's training tar, 1.28 million members of 110 KB in a thousand inner tars, is
    listed by 1,000 requests for the outer headers, one after another, and 19,000 for the inner ones, all but 1,000 of
    8 MiB, side by side in 16 threads: 138 GiB are read once, where a request for each header would make 1.28 million.
    Counted for some classes by `python -m benchmarks.listing_requests`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with numbered():
            self.size: int = path.stat().st_size
        self._held: list[tuple[int, bytes]] = []
        self._end = -AHEAD_BYTES - 1

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes at an offset; fewer at the end. Raises OSError."""
        size = min(size, max(0, self.size - offset))
        if not size:
            return b""
        for start, block in self._held:
            if start <= offset and offset + size <= start + len(block):
                return block[offset - start : offset - start + size]
        follows = 0 <= offset - self._end <= AHEAD_BYTES
        most = AHEAD_BYTES if follows else _FIRST_BYTES
        block = _requested(self._path, offset, min(max(size, most), self.size - offset))
        self._end = offset + len(block)
        if size <= most:
            self._held = [(offset, block), *self._held[: _HELD - 1]]
        return block[:size]

    def close(self) -> None:
        """Let it go."""
        self._held.clear()


class ObjectStream(io.RawIOBase):
    """An object as a stream; each reading is a request."""

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, 0
        with numbered():
            self._size: int = path.stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), max(0, self._size - self._place))
        content = _requested(self._path, self._place, wanted) if wanted else b""
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


@contextlib.contextmanager
def numbered() -> Iterator[None]:
    """Errors of a store with the number of errno that a local file's would have."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        number = errno.EIO
        if isinstance(error, FileNotFoundError):
            number = errno.ENOENT
        elif isinstance(error, PermissionError):
            number = errno.EACCES
        raise OSError(number, str(error)) from None


def _requested(path: Path, offset: int, size: int) -> bytes:
    """By one request; of an object that is empty or ends before, nothing."""
    remote = cast(Any, path)
    if not size:
        return b""
    with numbered(), answering(path):
        try:
            return client(remote.scheme).cat_file(remote.key, start=offset, end=offset + size)
        except Exception as error:
            if _is_behind_the_end(error):
                return b""
            raise


def _is_behind_the_end(error: Exception) -> bool:
    """Whether a store answers that the object has no such bytes."""
    for found in (error, error.__cause__):
        response = getattr(found, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", "")) in ("InvalidRange", "416")
    return False
