"""sha256 of files: while they are written, or of many at once by threads.

hashlib gives its lock away while it works, so threads hash as fast as processes would.
"""

import hashlib
import io
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

_BLOCK_BYTES = 1 << 20
# More than cores, since a shared file system answers one reader slowly and many fast.
_THREADS_PER_CORE = 2


def sha256_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file's bytes, read in blocks; `report` hears the size of each."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            if report:
                report(len(block))
    return digest.hexdigest()


class Stamp(NamedTuple):
    """What tells without reading a file that it has been written again."""

    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The present stamp; raises OSError."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


def stamps_below(folder: Path) -> dict[str, Stamp]:
    """The present stamps of all objects below a prefix of a store, by their names in it; raises OSError."""
    remote: Any = folder
    return {
        path.relative_to(remote).as_posix(): Stamp(status.st_size, status.st_mtime_ns)
        for path, status in remote.below().items()
    }


class ReadFile(NamedTuple):
    """A file that was read from end to end; `sha256` is empty, and `error` says why, when that was not possible."""

    path: Path
    stamp: Stamp
    sha256: str
    error: str = ""


def read_files(
    paths: Collection[Path], report: Callable[[int], None] | None = None
) -> Iterator[ReadFile]:
    """Read and hash files by threads; yields them in their order.

    A file that changes while it is read has no digest. `report` is called from the threads, with numbers of bytes.
    """

    def read(path: Path) -> ReadFile:
        stamp = Stamp(0, 0)
        try:
            stamp = Stamp.of(path)
            digest = sha256_of(path, report)
            if Stamp.of(path) != stamp:
                return ReadFile(path, stamp, "", "it changed while it was read")
        except OSError as error:
            return ReadFile(path, stamp, "", error.strerror or str(error))
        return ReadFile(path, stamp, digest)

    with ThreadPoolExecutor(_THREADS_PER_CORE * (os.cpu_count() or 1)) as threads:
        yield from threads.map(read, paths)


class HashingFile(io.BufferedIOBase):
    """A file open for writing, in one pass from its start, whose length and sha256 are known without reading it again.

    Any writer of streams takes it: torch.save, numpy.savez, pyarrow. Writers that seek are refused.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb", buffering=_BLOCK_BYTES)
        self._digest = hashlib.sha256()
        self.bytes = 0
        """Bytes written so far."""

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes written so far."""
        return self._digest.hexdigest()

    def write(self, data: Any, /) -> int:
        """Append bytes, or anything with the buffer protocol; returns their number."""
        view = memoryview(data)
        self._stream.write(view)
        self._digest.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def sync(self) -> None:
        """Wait until the bytes are on the disk. There is no `fileno`: bytes written through it would not be hashed."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def close(self) -> None:
        """Close the file; its length and digest stay readable."""
        try:
            super().close()
        finally:
            self._stream.close()
