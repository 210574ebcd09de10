"""One line of progress per piece of long work: done of total, rate, time left.

On a terminal the line is rewritten in place; elsewhere a new line is logged every `interval_s` seconds.
"""

import logging
import sys
import time

logger = logging.getLogger(__name__)


class ProgressLine:
    """Progress of one stage; `unit` names what is counted, e.g. "images"."""

    def __init__(
        self, stage: str, total: int, unit: str = "images", interval_s: float = 15.0
    ) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._interval_s = interval_s
        self._started = self._shown = time.monotonic()
        self._offset: int | None = None
        self._terminal = sys.stderr.isatty()

    def update(self, done: int, facts: str = "") -> None:
        """Show `done` of the total, at most twice a second on a terminal; `facts` is appended."""
        now = time.monotonic()
        if self._offset is None:
            # A resumed stage starts in the middle: its rate counts only what is done now.
            self._offset, self._started = done, now
        if now - self._shown < (0.5 if self._terminal else self._interval_s) and done < self._total:
            return
        self._shown = now
        line = f"{self._stage}: {self._describe(done, now)}{'  ' + facts if facts else ''}"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{line}")
            if done >= self._total:
                sys.stderr.write("\n")
            sys.stderr.flush()
        else:
            logger.info("%s", line)

    def _describe(self, done: int, now: float) -> str:
        elapsed = now - self._started
        fresh = done - (self._offset or 0)
        text = f"{done}/{self._total} {self._unit}"
        if fresh <= 0 or elapsed <= 0:
            return text
        rate = fresh / elapsed
        left = max(0, self._total - done) / rate
        shown = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
        return f"{text}  {shown} {self._unit}/s  {left:.0f} s left"
