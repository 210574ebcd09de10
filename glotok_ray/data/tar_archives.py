"""Tar archives as their members' places: headers are read, and nothing is unpacked; a worker reads the bytes it needs.

Read next: glotok_ray/data/archive_listing.py
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.folders import read_patiently
from glotok_ray.data.image_files import StoredImage, UnreadableImageError
from glotok_ray.data.listing import printable
from glotok_ray.data.reduction import stored_for
from glotok_ray.storage.places import to_path
from glotok_ray.storage.retries import patiently
from glotok_ray.storage.stretches import open_stretches, read_stretch

UNSAFE = "with an unsafe path"
SPECIAL = "links, devices or sparse files"
# A header's long name or its extensions; what is larger is no name.
_LONGEST_READ = 1 << 20
_BLOCK = tarfile.BLOCKSIZE


class DamagedArchiveError(ValueError):
    """An archive that is cut off or no tar; the text names it and the remedy."""


class TarImage(NamedTuple):
    """An image inside a tar: `size` bytes at `offset` of the file `path`."""

    key: str
    label: int
    path: str
    offset: int
    size: int

    def encode(self, run: ShardRun) -> StoredImage:
        """What to store; raises UnreadableImageError."""
        path = to_path(self.path)

        def read() -> bytes:
            return read_stretch(path, self.offset, self.size)

        original = read_patiently(read, path, run.storage_retry_minutes)
        if len(original) < self.size:
            raise UnreadableImageError(f"{path.name} ends within it")
        return stored_for(run, original)


class TarMember(NamedTuple):
    """A member; `refusal` says why it is not read, empty for a plain file."""

    name: str
    offset: int
    """Of its bytes, in the file that holds the archive."""
    size: int
    refusal: str = ""


class Span(io.RawIOBase):
    """A stretch of a file, read like a file of its own; what storage does not give is tried again for `minutes`."""

    def __init__(self, path: Path, minutes: float, start: int = 0, size: int = -1) -> None:
        self._path, self._minutes, self.start = path, minutes, start
        # One text for all rows of the file: pickles and memory hold it once.
        self.text = str(path)
        self._file = patiently(lambda: open_stretches(path), path, minutes=minutes)
        self._size = self._file.size - start if size < 0 else size
        self._place = 0
        self._ahead, self._ahead_at = b"", 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes at an offset of the whole file; fewer at its end."""
        return patiently(
            lambda: self._file.read_at(offset, size), self._path, minutes=self._minutes
        )

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes from the present place; raises ReadError for more than a header may have."""
        if not 0 <= size <= _LONGEST_READ:
            raise tarfile.ReadError("a header of more than 1 MiB")
        left = max(0, self._size - self._place)
        size = min(size, left)
        skipped = self._place - self._ahead_at
        if not 0 <= skipped <= len(self._ahead) - size:
            # tarfile asks for the byte before a header and for the header: one reading for both.
            most = min(max(size, 1 + _BLOCK), left)
            self._ahead = self.read_at(self.start + self._place, most)
            self._ahead_at, skipped = self._place, 0
        found = self._ahead[skipped : skipped + size]
        self._place += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._place = offset
        return offset

    def tell(self) -> int:
        return self._place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def tar_members(span: Span, name: str) -> Iterator[TarMember]:
    """The members of the tar `name` that fills the span; folders are none.

    Raises DamagedArchiveError for what is no tar, or ends before its end mark, and StorageError.
    """
    last, end = "none", 0
    try:
        # Not in a `with`, which would read on after an error.
        archive = tarfile.open(fileobj=span, mode="r:")  # noqa: SIM115
        while (info := archive.next()) is not None:
            # tarfile keeps all of them, a kilobyte each.
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            if info.size < 0 or archive.offset <= end:
                raise tarfile.ReadError("a header that points back")
            last, end = printable(info.name), archive.offset
            if not info.isdir():
                yield TarMember(last, span.start + info.offset_data, info.size, _refusal(info))
        span.seek(archive.offset)
        if span.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError("no end mark")
    except tarfile.TarError as error:
        raise DamagedArchiveError(
            f"{name}: is cut off or damaged ({error}; last member: {last}); download or copy it again"
        ) from None


def _refusal(info: tarfile.TarInfo) -> str:
    if not info.isreg() or info.issparse():
        return SPECIAL
    path = PurePosixPath(info.name)
    return UNSAFE if path.is_absolute() or ".." in path.parts else ""
