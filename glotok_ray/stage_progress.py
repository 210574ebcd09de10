"""The lines of several stages in a row: the present one redrawn in place, those before it kept with their times.

The time left over all stages comes from an expectation of each, which is corrected by what the stages took so far.
Read next: glotok_ray/stages/quickstart.py
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from glotok_ray.console import CONSOLE
from glotok_ray.progress import Piece, duration, lay_out, plain, set_whole

logger = logging.getLogger(__name__)

# Share of all expected seconds that stands for knowledge of before: the first short stage says little of the machine.
_PRIOR = 0.1
_LAST_PIECES = 0.25
# From this share of a piece on its own rate alone tells what is left of it.
_TRUSTED = 0.2
# A training that is begun anew shows its first steps together.
_FIRST_SEEN = 0.1
_TICK_S = 1.0


class TimeLeft:
    """Seconds that stages in a row still take, from the expected seconds of each, in order; 0 for one that is there."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._open = dict(expected)
        self._prior = _PRIOR * sum(expected.values())
        self._expected = self._taken = 0.0

    def finish(self, name: str, seconds: float, *, counts: bool = True) -> None:
        """The stage is over after `seconds`, which correct the others' unless it did not do all its work now."""
        expected = self._open.pop(name)
        if counts and expected:
            self._expected += expected
            self._taken += seconds

    def stage(
        self, name: str, elapsed: float, piece: Piece | None = None, now: float = 0.0
    ) -> float:
        """Seconds for the rest of a stage that began `elapsed` seconds ago."""
        slowness = self._slowness(self._expected, self._taken)
        rest = max(0.0, self._open[name] * slowness - elapsed)
        left = piece.left(now) if piece else None
        if piece is None or left is None:
            return rest
        if piece.share >= 1:
            # The first piece of a stage is most of it.
            return min(rest, _LAST_PIECES * elapsed)
        # The first rate of a piece holds its start.
        trust = min(1.0, piece.share / _TRUSTED)
        return trust * left + (1 - trust) * rest

    def all(self, name: str, elapsed: float, piece: Piece | None = None, now: float = 0.0) -> float:
        """Seconds for the rest of the stage `name`, which runs, and for all that come after it."""
        rest = self.stage(name, elapsed, piece, now)
        known = piece.share if piece and piece.left(now) is not None else 0.0
        expected = self._expected + known * self._open[name]
        slowness = self._slowness(expected, self._taken + known * (elapsed + rest))
        return rest + slowness * sum(value for key, value in self._open.items() if key != name)

    def _slowness(self, expected: float, taken: float) -> float:
        total = expected + self._prior
        return (taken + self._prior) / total if total else 1.0


class StageLines:
    """Shows stages in a row, each done inside `stage`; pieces of work report to it while the block runs."""

    def __init__(self, titles: Mapping[str, str], expected: Mapping[str, float]) -> None:
        """`titles` and `expected` seconds of all stages, in order."""
        self._titles, self._left = dict(titles), TimeLeft(expected)
        self._name, self._started = "", 0.0
        self._piece: Piece | None = None
        self._lock, self._stopped = threading.RLock(), threading.Event()

    def __enter__(self) -> "StageLines":
        set_whole(self)
        threading.Thread(target=self._tick, name="stages", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        set_whole(None)

    @contextlib.contextmanager
    def stage(self, name: str, *, is_there: bool = False) -> Iterator[Callable[[], float]]:
        """The block is the stage `name`; what is given tells the seconds since it began.

        `is_there` says that its result is there already, and will be recognised.
        """
        with self._lock:
            self._name, self._started, self._piece = name, time.monotonic(), None
        began = self._elapsed
        logger.info("stage %s: %s; all: about %s", self._head(), self._titles[name], self._all())
        self._draw()
        try:
            yield began
        except BaseException as error:
            word = "failed" if isinstance(error, Exception) else "stopped"
            self._end(f"{word} after {duration(began())}")
            raise
        seconds = began()
        found = "finished before: " if is_there else ""
        self._end(f"{duration(seconds):>7}  {found}{self._titles[name]}")
        with self._lock:
            self._left.finish(name, seconds, counts=not is_there and not self._is_resumed())

    def show(self, piece: Piece) -> None:
        """Show the piece in the present stage's line."""
        with self._lock:
            self._piece = piece
        self._draw()

    def describe(self, piece: Piece) -> str:
        """The piece as a log line."""
        with self._lock:
            if not self._name:
                return plain(piece)
            self._piece = piece
            return plain(piece, self._head(piece), f"all {self._all()}")

    def _head(self, piece: Piece | None = None) -> str:
        names = list(self._titles)
        inner = f", {piece.name}" if piece and piece.name != self._name else ""
        return f"{names.index(self._name) + 1}/{len(names)} {self._name}{inner}"

    def _is_resumed(self) -> bool:
        piece = self._piece
        return piece is not None and piece.begun_at > _FIRST_SEEN * piece.total

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _all(self) -> str:
        return duration(self._left.all(self._name, self._elapsed(), self._piece, time.monotonic()))

    def _draw(self) -> None:
        with self._lock:
            if not (self._name and CONSOLE.is_terminal):
                return
            piece, now = self._piece, time.monotonic()
            left = piece.left(now) if piece and piece.share < 1 else None
            passed = f"{duration(self._elapsed())} so far"
            own = passed if left is None else f"ETA {duration(left)}"
            CONSOLE.redraw(
                lay_out(self._head(piece), piece, f"{own} · all {self._all()}", CONSOLE.columns)
            )

    def _end(self, text: str) -> None:
        """Keep the present stage's line, with `text` in it."""
        with self._lock:
            width = len(f"{len(self._titles)}/{len(self._titles)} ") + max(map(len, self._titles))
            if CONSOLE.is_terminal:
                CONSOLE.keep(f"{self._head():<{width}}  {text}"[: CONSOLE.columns])
            self._name = ""

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_S):
            self._draw()
