"""The lines of several stages: those of the present ones redrawn in place, those before kept with their times.

The time left over all stages comes from an expectation of each, which is corrected by what the stages took so far.
Read next: glotok_ray/stages/quickstart.py
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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


@dataclass
class Present:
    """A stage that runs."""

    began: float
    """When, on the monotonic clock."""
    thread: int
    piece: Piece | None = None
    """The newest piece of its work."""
    is_measure: bool = True
    """Whether its time tells something of the other stages'."""

    @property
    def is_resumed(self) -> bool:
        """Whether much of its work had been done before."""
        piece = self.piece
        return piece is not None and piece.begun_at > _FIRST_SEEN * piece.total


class TimeLeft:
    """Seconds that stages in a row still take, from the expected seconds of each, in order; 0 for one that is there."""

    def __init__(self, expected: Mapping[str, float], lanes: Sequence[Sequence[str]] = ()) -> None:
        """`lanes` run side by side, each a row of stages."""
        self.lanes = lanes
        self._open = dict(expected)
        self._prior = _PRIOR * sum(expected.values())
        self._expected = self._taken = 0.0

    def finish(self, name: str, seconds: float, *, counts: bool = True) -> None:
        """The stage is over after `seconds`, which correct the others' unless it did not do all its work now."""
        expected = self._open.pop(name)
        if counts and expected:
            self._expected += expected
            self._taken += seconds

    def stage(self, name: str, present: Present, now: float) -> float:
        """Seconds for the rest of a stage that runs."""
        slowness = self._slowness(self._expected, self._taken)
        elapsed, piece = now - present.began, present.piece
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

    def all(self, present: Mapping[str, Present], now: float) -> float:
        """Seconds for the rest of the stages that run, and for all that come after them."""
        rest = {name: self.stage(name, stage, now) for name, stage in present.items()}
        expected, taken = self._expected, self._taken
        for name, stage in present.items():
            piece = stage.piece
            has_rate = piece is not None and piece.left(now) is not None and stage.is_measure
            known = piece.share if piece and has_rate else 0.0
            expected += known * self._open[name]
            taken += known * (now - stage.began + rest[name])
        slowness = self._slowness(expected, taken)
        left = {name: slowness * value for name, value in self._open.items()} | rest
        lanes = [sum(left.pop(name, 0.0) for name in lane) for lane in self.lanes]
        return sum(left.values()) + max(lanes, default=0.0)

    def _slowness(self, expected: float, taken: float) -> float:
        total = expected + self._prior
        return (taken + self._prior) / total if total else 1.0


class StageLines:
    """Shows stages, each done inside `stage`, in whatever threads; pieces of work report to it while the block runs."""

    def __init__(
        self,
        titles: Mapping[str, str],
        expected: Mapping[str, float],
        lanes: Sequence[Sequence[str]] = (),
    ) -> None:
        """`titles` and `expected` seconds of all stages, in order; `lanes` of them run side by side."""
        self._titles, self._left = dict(titles), TimeLeft(expected, lanes)
        self._present: dict[str, Present] = {}
        self._lock, self._stopped = threading.RLock(), threading.Event()

    def __enter__(self) -> "StageLines":
        set_whole(self)
        threading.Thread(target=self._tick, name="stages", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        set_whole(None)

    def one_after_another(self) -> None:
        """No lanes: every stage begins when the one before has ended."""
        self._left.lanes = ()

    @contextlib.contextmanager
    def stage(
        self, name: str, *, is_there: bool = False, is_measure: bool = True
    ) -> Iterator[Callable[[], float]]:
        """The block is the stage `name`; what is given tells the seconds since it began.

        `is_there` says that its result is there already, and will be recognised; without `is_measure` what it takes
        tells nothing of the others, such as that of data of any size.
        """
        with self._lock:
            present = Present(time.monotonic(), threading.get_ident(), is_measure=is_measure)
            self._present[name] = present
            head, left = self._head(name), self._all()
        logger.info("stage %s: %s; all: about %s", head, self._titles[name], left)
        self._draw()

        def elapsed() -> float:
            return time.monotonic() - present.began

        try:
            yield elapsed
        except BaseException as error:
            word = "failed" if isinstance(error, Exception) else "stopped"
            self._end(name, f"{word} after {duration(elapsed())}")
            raise
        seconds = elapsed()
        found = "finished before: " if is_there else ""
        with self._lock:
            counts = is_measure and not is_there and not present.is_resumed
            self._left.finish(name, seconds, counts=counts)
            self._end(name, f"{duration(seconds):>7}  {found}{self._titles[name]}")

    def show(self, piece: Piece) -> None:
        """Show the piece in the line of its stage."""
        self._take(piece)
        self._draw()

    def describe(self, piece: Piece) -> str:
        """The piece as a log line."""
        with self._lock:
            name = self._take(piece)
            if not name:
                return plain(piece)
            return plain(piece, self._head(name), f"all {self._all()}")

    def _take(self, piece: Piece) -> str:
        """Give the piece to its stage, whose name is returned: that of its name, or of its thread, or the first one."""
        with self._lock:
            thread = threading.get_ident()
            of_thread = [name for name, stage in self._present.items() if stage.thread == thread]
            of_name = [piece.name] if piece.name in self._present else []
            for name in (*of_name, *of_thread, *self._present):
                self._present[name].piece = piece
                return name
            return ""

    def _head(self, name: str) -> str:
        names = list(self._titles)
        present = self._present.get(name)
        piece = present.piece if present else None
        inner = f", {piece.name}" if piece and piece.name != name else ""
        return f"{names.index(name) + 1}/{len(names)} {name}{inner}"

    def _all(self) -> str:
        return duration(self._left.all(self._present, time.monotonic()))

    def _draw(self) -> None:
        with self._lock:
            if CONSOLE.is_terminal and self._present:
                CONSOLE.redraw("\n".join(self._line(name) for name in self._present))

    def _line(self, name: str) -> str:
        present, now = self._present[name], time.monotonic()
        piece = present.piece
        left = piece.left(now) if piece and piece.share < 1 else None
        passed = f"{duration(now - present.began)} so far"
        own = passed if left is None else f"ETA {duration(left)}"
        times = f"{own} · all {self._all()}"
        return lay_out(self._head(name), piece, times, CONSOLE.columns)

    def _end(self, name: str, text: str) -> None:
        """Keep a line of the stage, with `text` in it, above those that go on."""
        with self._lock:
            width = len(f"{len(self._titles)}/{len(self._titles)} ") + max(map(len, self._titles))
            del self._present[name]
            if CONSOLE.is_terminal:
                CONSOLE.redraw("\n".join(self._line(other) for other in self._present))
                CONSOLE.write(f"{self._head(name):<{width}}  {text}"[: CONSOLE.columns])

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_S):
            self._draw()
