"""Streams of objects. Those for writing collect in a temporary file, which is sent when the stream is closed.

So writers may seek, a failed one leaves nothing, and large objects are sent in parts.
Read next: glotok_ray/storage/object_paths.py
"""

import contextlib
import io
import logging
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from glotok_ray.storage.object_stores import answering, client


def send(file: Path, target: Any) -> None:
    """Send a local file as the object `target`, in parts where it is large; raises OSError."""
    with answering(target):
        client(target.scheme).put_file(str(file), target.key)


def fetch(source: Any, file: Path) -> None:
    """Write the content of the object `source` to a local file; raises OSError."""
    with answering(source):
        client(source.scheme).get_file(source.key, str(file))


class ObjectLog(logging.Handler):
    """Appends each line of a log to an object, which it sends as a whole: for the few lines of warnings."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self._target, self._is_busy = target, False

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; what the store's own client logs meanwhile is left out."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            with self._target.open("a") as stream:
                stream.write(self.format(record) + "\n")
        except OSError:
            self.handleError(record)
        finally:
            self._is_busy = False


class Upload(io.FileIO):
    """A local file that becomes the object `target` when it is closed."""

    def __init__(self, target: Any, *, exclusive: bool = False, append: bool = False) -> None:
        self._target, self._exclusive, self._append = target, exclusive, append
        self._is_failed = False
        handle, name = tempfile.mkstemp(prefix="glotok-upload-")
        os.close(handle)
        self._file = Path(name)
        try:
            if exclusive and target.is_file():
                raise FileExistsError(f"{target}: exists already")
            super().__init__(name, "r+b")
        except BaseException:
            self._file.unlink(missing_ok=True)
            raise

    def fail(self) -> None:
        """Send nothing, unless it was to be appended: a log keeps what came before an error."""
        self._is_failed = not self._append

    def close(self) -> None:
        """Send what was written, once; raises OSError."""
        if self.closed:
            return
        super().close()
        try:
            if not self._is_failed and self._exclusive:
                self._target.create(self._file.read_bytes())
            elif self._append:
                self._send_appended()
            elif not self._is_failed:
                send(self._file, self._target)
        finally:
            self._file.unlink(missing_ok=True)

    def _send_appended(self) -> None:
        """Send the object as it is by now with what was written behind it."""
        before = b""
        with contextlib.suppress(FileNotFoundError):
            before = self._target.read_bytes()
        self._target.write_bytes(before + self._file.read_bytes())


class _SentUnlessFailed(io.IOBase):
    """A stream over an upload that sends nothing after an exception in its `with`."""

    _upload: Upload

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._upload.fail()
        super().__exit__(kind, error, trace)


class BinaryUpload(_SentUnlessFailed, io.BufferedWriter):
    """Bytes of an upload."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        super().__init__(upload)


class TextUpload(_SentUnlessFailed, io.TextIOWrapper):
    """Text of an upload."""

    def __init__(self, upload: Upload, encoding: str, newline: str | None = None) -> None:
        self._upload = upload
        stream = io.BufferedWriter(upload)
        super().__init__(stream, encoding=encoding, newline=newline, write_through=True)


class Download(io.RawIOBase):
    """A stream for reading whose errors are OSError."""

    def __init__(self, stream: Any, path: Any) -> None:
        self._stream, self._path = stream, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        with answering(self._path):
            return self._stream.read(-1 if size is None else size)

    def readinto(self, buffer: Any, /) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        return self.read()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._stream.close()
