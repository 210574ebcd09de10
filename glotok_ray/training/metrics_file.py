"""Reading a run's metrics.jsonl: one line of metrics at a time, and lines that tell of events. Needs no torch.

Read next: glotok_ray/training/metrics_log.py
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from glotok_ray.storage import artefact

METRICS_FILE = "metrics.jsonl"
EVENT = "event"
"""A line that holds this name tells of something that happened, and of no metrics."""
_TAIL_BYTES = 1 << 16


def last_metrics(folder: Path, step: int | None = None) -> dict[str, Any]:
    """The newest value of every metric in a run's metrics.jsonl, up to `step` where it is given."""
    return _newest(
        line for line in metric_lines(folder / METRICS_FILE) if step is None or line["step"] <= step
    )


def _newest(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The newest value of every metric; events tell of none."""
    metrics: dict[str, Any] = {}
    # In the order of steps: what is known of a checkpoint when it is written comes after lines of later steps.
    for line in sorted(lines, key=lambda line: line["step"]):
        metrics |= {} if EVENT in line else line
    # Of one line, not of the newest values.
    metrics.pop(artefact.NOT_FINITE, None)
    return metrics


def latest_metrics(folder: Path) -> dict[str, Any]:
    """The newest value of every metric at the end of a run's metrics.jsonl; the rest is not read."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return _newest(read_lines(stream.read().decode(errors="replace")))


def metric_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, events too; none where there is no such file."""
    return read_lines(path.read_text() if path.is_file() else "")


def read_lines(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines text; a killed worker, or one that goes on, may leave half a line."""
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield found
