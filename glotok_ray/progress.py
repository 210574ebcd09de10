"""One line of progress per piece of long work: done of total, rate, time left.

On a terminal the line has a bar and is redrawn in place; elsewhere a new line is logged every `interval_s` seconds. A
piece of a stage among several is shown in that stage's line. Read next: glotok_ray/stage_progress.py
"""

import logging
import time
from typing import NamedTuple, Protocol

from glotok_ray.console import CONSOLE

logger = logging.getLogger(__name__)

_BAR = 20
_SHORT_BAR = 10
_TERMINAL_INTERVAL_S = 0.5


class Piece(NamedTuple):
    """How far a piece of work is."""

    name: str
    done: int
    total: int
    unit: str
    rate: str
    """Units or images per second, with the unit; empty where it is not known yet."""
    begun_at: int
    """What was done when this process took it up."""
    left_s: float | None
    """Seconds for the rest, at `seen_s`; None where they are not known yet."""
    seen_s: float
    """When it was so, on the monotonic clock."""
    facts: str = ""

    def left(self, now: float) -> float | None:
        """Seconds for the rest."""
        return None if self.left_s is None else max(0.0, self.left_s - (now - self.seen_s))

    @property
    def share(self) -> float:
        """Share of what there was to do for this process, in [0, 1]."""
        to_do = self.total - self.begun_at
        return (self.done - self.begun_at) / to_do if to_do > 0 else 1.0

    @property
    def count(self) -> str:
        """Done of total, with the unit."""
        return f"{self.done}/{self.total} {self.unit}"


class Whole(Protocol):
    """Several stages in a row, of which pieces of work are parts."""

    def show(self, piece: Piece) -> None:
        """Show the piece in the present stage's line."""
        ...

    def describe(self, piece: Piece) -> str:
        """The piece as a log line."""
        ...


class ProgressLine:
    """Progress of one piece of work; `unit` names what is counted, and a unit may hold several images."""

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str = "images",
        interval_s: float = 15.0,
        *,
        images_per_unit: int = 0,
    ) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._interval_s, self._images_per_unit = interval_s, images_per_unit
        self._started = self._shown = time.monotonic()
        self._offset: int | None = None
        self._ended = False

    def update(self, done: int, facts: str = "") -> None:
        """Show `done` of the total, at most twice a second on a terminal; `facts` is appended."""
        now = time.monotonic()
        if self._offset is None:
            # A resumed stage starts in the middle: its rate counts only what is done now.
            self._offset, self._started = done, now
        interval = _TERMINAL_INTERVAL_S if CONSOLE.is_terminal else self._interval_s
        if now - self._shown < interval and done < self._total:
            return
        self._shown = now
        piece = self._piece(done, now, facts)
        whole = _Present.whole
        if not CONSOLE.is_terminal:
            logger.info("%s", whole.describe(piece) if whole else plain(piece))
        elif whole:
            whole.show(piece)
        else:
            self._ended = False
            CONSOLE.redraw(lay_out(piece.name, piece, _eta(piece), CONSOLE.columns))
            if done >= self._total:
                self.end()

    def end(self) -> None:
        """Let the line stay as it is: the work is over, perhaps before its total."""
        if _Present.whole is None and not self._ended:
            CONSOLE.keep()
            self._ended = True

    def _piece(self, done: int, now: float, facts: str) -> Piece:
        offset, elapsed = self._offset or 0, now - self._started
        fresh = done - offset
        rate, left = "", 0.0 if done >= self._total else None
        if fresh > 0 and elapsed > 0:
            unit = "images" if self._images_per_unit else self._unit
            speed = fresh / elapsed
            shown = speed * (self._images_per_unit or 1)
            rate = per_second(shown, unit)
            left = max(0, self._total - done) / speed
        return Piece(self._stage, done, self._total, self._unit, rate, offset, left, now, facts)


class _Present:
    """The stages in a row that this process works on, if it does."""

    whole: Whole | None = None


def set_whole(whole: Whole | None) -> None:
    """Show all pieces of work of this process as parts of `whole`, in whatever thread; None ends it."""
    _Present.whole = whole


def plain(piece: Piece, head: str = "", tail: str = "") -> str:
    """A log line of a piece, behind `head` in the place of its name."""
    parts = (piece.count, piece.rate, " · ".join(filter(None, (_eta(piece), tail))), piece.facts)
    return f"{head or piece.name}: {'  '.join(part for part in parts if part)}"


def per_second(value: float, unit: str) -> str:
    """A rate: 0.52 images/s, 4096 images/s."""
    return f"{value:.3g} {unit}/s" if value < 100 else f"{value:.0f} {unit}/s"


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some: 0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _eta(piece: Piece) -> str:
    left = piece.left(piece.seen_s)
    return "" if left is None else f"ETA {duration(left)}"


def lay_out(head: str, piece: Piece | None, times: str, columns: int) -> str:
    """One line of at most `columns` characters: head, bar, count, rate, times and facts.

    What does not fit goes, in this order: facts (the last first), the rate, half of the bar, the bar, the count, the
    times; then the head is cut.
    """
    if piece is None:
        return f"{head}  {times}"[:columns]
    bars = [_bar(piece, _BAR), _bar(piece, _SHORT_BAR)]
    choices = [
        (bars[0], piece.count, piece.rate),
        (bars[0], piece.count),
        (bars[1], piece.count),
        (piece.count,),
        (),
    ]
    for chosen in choices:
        line = "  ".join(part for part in (head, *chosen, times) if part)
        if len(line) <= columns:
            return _with_facts(line, piece.facts, columns)
    return head[:columns]


def _with_facts(line: str, facts: str, columns: int) -> str:
    """The line and the first of the facts, which two spaces separate, as many as fit."""
    for fact in filter(None, facts.split("  ")):
        if len(line) + 2 + len(fact) > columns:
            break
        line += f"  {fact}"
    return line


def _bar(piece: Piece, width: int) -> str:
    share = piece.done / piece.total if piece.total else 1.0
    filled = int(width * min(1.0, max(0.0, share)))
    return f"[{'#' * filled}{'.' * (width - filled)}]"
