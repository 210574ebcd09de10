"""Where a job speaks to its user: log lines, and on a terminal a line or some below them that are redrawn in place.

What a job and the libraries in it print beside that may go to a file. Read next: glotok_ray/progress.py
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_CLEAR, _UP = "\r\x1b[2K", "\x1b[1A"
_COLUMNS = 80
_OURS = ("glotok_ray", "jobs", "benchmarks", "__main__")
_STDOUT, _STDERR = 1, 2
LOG_FORMAT = "%(asctime)s %(message)s"
NOTE = {"is_note": True}
"""`extra` of a log line below WARNING that a terminal shows always."""


class Console:
    """The stream that people read, stderr unless another is given; any thread may call any method."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._given, self._shown, self._lock = stream, "", threading.RLock()

    @property
    def is_terminal(self) -> bool:
        """Whether a line can be redrawn in place; elsewhere no control character is written."""
        return os.environ.get("TERM", "dumb") != "dumb" and self._stream.isatty()

    @property
    def columns(self) -> int:
        """Characters that a line may have: one less than the terminal's, some of which break a full line."""
        try:
            found = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            found = 0
        return (found or _COLUMNS) - 1

    def write(self, text: str) -> None:
        """Write lines, above what is redrawn."""
        with self._lock:
            self._put(f"{self._clear()}{text}\n{self._shown}" if self._shown else f"{text}\n")

    def redraw(self, lines: str) -> None:
        """Show `lines` in the place of those before, "" for none; for terminals alone."""
        with self._lock:
            clear = self._clear()
            self._shown = lines
            self._put(f"{clear}{lines}")

    def keep(self, line: str = "") -> None:
        """End the line that is redrawn, as it is or as `line`; it stays."""
        with self._lock:
            if line:
                self.redraw(line)
            if self._shown:
                self._put("\n")
            self._shown = ""

    def _clear(self) -> str:
        """What takes the shown lines away, from the end of the last one."""
        return _CLEAR + (_UP + _CLEAR) * self._shown.count("\n")

    @contextlib.contextmanager
    def alone(self, log: Path) -> Iterator[None]:
        """Append what this process prints otherwise, Ray's C++ side included, and all log lines from INFO on, to the
        file `log`; on a terminal log lines below WARNING go there alone, but for a NOTE.

        Does nothing where `ConsoleHandler` does not write this process's log lines, as they would be lost.
        """
        handlers = [
            item for item in logging.getLogger().handlers if isinstance(item, ConsoleHandler)
        ]
        if not handlers:
            yield
            return
        with log.open("a", encoding="utf-8") as file, self._others_to(file):
            filing = logging.FileHandler(log, encoding="utf-8")
            filing.setFormatter(logging.Formatter(LOG_FORMAT, "%Y-%m-%d %H:%M:%S"))
            logging.getLogger().addHandler(filing)
            for handler in handlers:
                handler.brief = self.is_terminal
            try:
                yield
            finally:
                for handler in handlers:
                    handler.brief = False
                logging.getLogger().removeHandler(filing)
                filing.close()

    @contextlib.contextmanager
    def _others_to(self, file: TextIO) -> Iterator[None]:
        """Turn this process's stdout and stderr to `file`, and keep a stream of its own to where stderr went."""
        _flush()
        saved = {number: os.dup(number) for number in (_STDOUT, _STDERR)}
        kept, encoding = self._given, sys.stderr.encoding or "utf-8"
        with os.fdopen(os.dup(_STDERR), "w", encoding=encoding, errors="replace") as own:
            self._given = own
            try:
                for number in saved:
                    os.dup2(file.fileno(), number)
                yield
            finally:
                _flush()
                for number, before in saved.items():
                    os.dup2(before, number)
                    os.close(before)
                self._given = kept

    @property
    def _stream(self) -> TextIO:
        # Looked up at each use: tests and libraries replace sys.stderr.
        return self._given or sys.stderr

    def _put(self, text: str) -> None:
        # A terminal that was closed must not end a training.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class ConsoleHandler(logging.Handler):
    """Log lines of this project from INFO on, and from WARNING on those of libraries, on a console."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self.brief = False
        """Leave out what is below WARNING, notes apart."""
        self.setFormatter(logging.Formatter(LOG_FORMAT, "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record's line."""
        is_ours = record.name.split(".")[0] in _OURS
        if self.brief:
            is_ours = is_ours and NOTE.keys() <= vars(record).keys()
        if record.levelno >= logging.WARNING or is_ours:
            self._console.write(self.format(record))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


CONSOLE = Console()
"""The console of this process."""
