"""What the quickstart's stages took: a hidden file for each beside its folder, with one line per attempt.

A line is "SECONDS BEGAN", the latter as unix time. "? BEGAN" is an attempt that runs, or one that was killed and could
note no end; "SECONDS BEGAN stopped" is one that ended without a result. Older versions wrote one line, of the attempt
that made the result. Read next: glotok_ray/stages/quickstart.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.storage import artefact

_UNKNOWN, _STOPPED = "?", "stopped"


class Attempt(NamedTuple):
    """One run of a stage."""

    seconds: float | None
    """None while it runs, and where it was killed."""
    began_unix_s: float | None
    """None where the oldest versions noted none."""
    is_made: bool = False
    """Whether it left the finished result."""

    def line(self) -> str:
        """As the file has it."""
        seconds = _UNKNOWN if self.seconds is None else f"{self.seconds:.1f}"
        began = "" if self.began_unix_s is None else f" {self.began_unix_s:.1f}"
        return f"{seconds}{began}" + (
            "" if self.is_made or self.seconds is None else f" {_STOPPED}"
        )


def times_file(stage: str) -> str:
    """The file's name in the quickstart's folder."""
    return f".{stage}.seconds"


def read_attempts(path: Path) -> list[Attempt]:
    """In their order; empty where no such file tells."""
    try:
        return [_attempt(line.split()) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


def _attempt(words: Sequence[str]) -> Attempt:
    is_stopped = words[-1] == _STOPPED
    seconds, *rest = words[:-1] if is_stopped else words
    began = float(rest[0]) if rest else None
    if seconds == _UNKNOWN:
        return Attempt(None, began)
    return Attempt(float(seconds), began, not is_stopped)


def write_attempts(path: Path, attempts: Sequence[Attempt]) -> None:
    """Replace the file."""
    with artefact.replacing(path) as temporary:
        temporary.write_text("".join(f"{attempt.line()}\n" for attempt in attempts))


def known_seconds(path: Path) -> float | None:
    """What the stage takes as a whole, s; None where that is not known, as of one that was resumed."""
    attempts = read_attempts(path)
    return attempts[0].seconds if len(attempts) == 1 and attempts[0].is_made else None


def times_of(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """What a row of stages.json tells of the attempts: the sum of the seconds that are known, the first begin, and each
    attempt.
    """
    began = [attempt.began_unix_s for attempt in attempts if attempt.began_unix_s is not None]
    return {
        "seconds": sum(attempt.seconds or 0.0 for attempt in attempts),
        **({"began_unix_s": min(began)} if began else {}),
        "attempts": [
            {
                "seconds": attempt.seconds,
                **({} if attempt.began_unix_s is None else {"began_unix_s": attempt.began_unix_s}),
            }
            for attempt in attempts
        ],
    }
