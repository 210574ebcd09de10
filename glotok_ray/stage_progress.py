"""The lines of several stages in a row: the present one redrawn in place, those before it kept with their times. What
runs side by side shares a line while it runs.

The time left over all stages comes from an expectation of each, which is corrected by what the stages took so far.
Read next: glotok_ray/stages/quickstart.py
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from glotok_ray.console import CONSOLE
from glotok_ray.progress import Piece, duration, lay_out, plain, set_whole, together

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
    """Shows stages in a row, each done inside `stage`, or several side by side; pieces of work report to it while the
    block runs.
    """

    def __init__(
        self,
        titles: Mapping[str, str],
        expected: Mapping[str, float],
        side_by_side: Sequence[tuple[str, ...]] = (),
    ) -> None:
        """`titles` and `expected` seconds of all stages, in order; those `side_by_side` follow each other there, and
        take the longest one's time.
        """
        self._titles = dict(titles)
        seconds = dict(expected)
        for first, *others in side_by_side:
            seconds[first] = max(seconds[first], *(seconds.pop(name) for name in others))
        self._left = TimeLeft(seconds)
        self._names: tuple[str, ...] = ()
        self._started = 0.0
        self._pieces: dict[str, Piece] = {}
        self._ended: dict[str, float] = {}
        self._lock, self._stopped = threading.RLock(), threading.Event()

    def __enter__(self) -> "StageLines":
        set_whole(self)
        threading.Thread(target=self._tick, name="stages", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        set_whole(None)

    @contextlib.contextmanager
    def stage(self, *names: str, there: Collection[str] = ()) -> Iterator[Callable[[], float]]:
        """The block is the stage of this name, or those of these names side by side; what is given tells the seconds
        since it began.

        The results of those that are `there` already will be recognised.
        """
        with self._lock:
            self._names, self._started = names, time.monotonic()
            self._pieces, self._ended = {}, {}
        began = self._elapsed
        titles = "; ".join(self._titles[name] for name in names)
        logger.info("stage %s: %s; all: about %s", self._head(), titles, self._all())
        self._draw()
        try:
            yield began
        except BaseException as error:
            word = "failed" if isinstance(error, Exception) else "stopped"
            self._end(f"{word} after {duration(began())}", there)
            raise
        seconds = began()
        self._end("", there)
        with self._lock:
            counts = not there and not self._is_resumed()
            self._left.finish(names[0], seconds, counts=counts)

    def end(self, name: str) -> None:
        """The stage `name` has ended well, others beside it perhaps not."""
        with self._lock:
            self._ended[name] = self._elapsed()

    def show(self, piece: Piece) -> None:
        """Show the piece in the present stage's line."""
        self._take(piece)
        self._draw()

    def describe(self, piece: Piece) -> str:
        """The piece as a log line."""
        with self._lock:
            if not self._names:
                return plain(piece)
            stage = self._take(piece)
            return plain(piece, self._head(stage, piece), f"all {self._all()}")

    def _take(self, piece: Piece) -> str:
        """Keep the newest piece of each stage; returns the stage that it belongs to."""
        with self._lock:
            first = self._names[0] if self._names else ""
            stage = piece.name if piece.name in self._names else first
            self._pieces[stage] = piece
            return stage

    @property
    def _piece(self) -> Piece | None:
        return together(list(self._pieces.values())) if self._pieces else None

    def _head(self, stage: str = "", piece: Piece | None = None) -> str:
        """Of one of the present stages, or of all of them: "3/13 tokenizer", "3-4/13 tokenizer, twin"."""
        names = (stage,) if stage else self._names
        places = [list(self._titles).index(name) + 1 for name in names]
        number = "-".join(str(place) for place in sorted({places[0], places[-1]}))
        inner = f", {piece.name}" if piece and piece.name and piece.name not in names else ""
        return f"{number}/{len(self._titles)} {', '.join(names)}{inner}"

    def _is_resumed(self) -> bool:
        piece = self._piece
        return piece is not None and piece.begun_at > _FIRST_SEEN * piece.total

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _all(self) -> str:
        elapsed, now = self._elapsed(), time.monotonic()
        return duration(self._left.all(self._names[0], elapsed, self._piece, now))

    def _draw(self) -> None:
        with self._lock:
            if not (self._names and CONSOLE.is_terminal):
                return
            piece, now = self._piece, time.monotonic()
            left = piece.left(now) if piece and piece.share < 1 else None
            passed = f"{duration(self._elapsed())} so far"
            own = passed if left is None else f"ETA {duration(left)}"
            head = self._head("", piece)
            CONSOLE.redraw(lay_out(head, piece, f"{own} · all {self._all()}", CONSOLE.columns))

    def _end(self, failure: str, there: Collection[str]) -> None:
        """Keep a line of each of the present stages, with its time, or the failure of those that have not ended."""
        with self._lock:
            width = len(f"{len(self._titles)}/{len(self._titles)} ") + max(map(len, self._titles))
            for name in self._names if CONSOLE.is_terminal else ():
                found = "finished before: " if name in there else ""
                seconds = self._ended.get(name, self._elapsed())
                text = f"{duration(seconds):>7}  {found}{self._titles[name]}"
                if failure and name not in self._ended:
                    text = failure
                CONSOLE.keep(f"{self._head(name):<{width}}  {text}"[: CONSOLE.columns])
            self._names = ()

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_S):
            self._draw()
