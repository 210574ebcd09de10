"""What rows of stages.json tell of time: a stage that was stopped and resumed has several attempts, and a killed one no
end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Stage = Mapping[str, Any]


def seconds_of(stages: Sequence[Stage]) -> float:
    """In which at least one stage ran, s, as far as it is known; an attempt that tells no begin counts for itself."""
    attempts = [
        attempt
        for stage in stages
        for attempt in _attempts(stage)
        if attempt["seconds"] is not None
    ]
    total, end = 0.0, float("-inf")
    for attempt in sorted(attempts, key=lambda attempt: attempt.get("began_unix_s", 0.0)):
        seconds = float(attempt["seconds"])
        if "began_unix_s" not in attempt:
            total += seconds
            continue
        began = float(attempt["began_unix_s"])
        total += max(0.0, began + seconds - max(began, end))
        end = max(end, began + seconds)
    return total


def is_least(stages: Sequence[Stage]) -> bool:
    """Whether the stages took longer than is known."""
    return any(
        not _attempts(stage) or any(attempt["seconds"] is None for attempt in _attempts(stage))
        for stage in stages
    )


def time_text(stage: Stage, *, digits: int = 0) -> str:
    """The stage's time with its unit."""
    known = f"{float(stage['seconds']):.{digits}f} s"
    if not is_least([stage]):
        return known
    return f"at least {known}" if stage["seconds"] else "not known"


def status_text(stage: Stage) -> str:
    """Made or recognised, and whether it was resumed."""
    number = len(_attempts(stage))
    return f"{stage['status']}, resumed: {number} attempts" if number > 1 else str(stage["status"])


def _attempts(stage: Stage) -> Sequence[Stage]:
    """Rows of older versions are of one."""
    return stage.get("attempts", (stage,))
