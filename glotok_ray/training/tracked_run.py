"""What a tracker is told of a run: its folder, its key for ever, its configuration.

Read next: glotok_ray/training/trackers.py
"""

import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from glotok_ray.storage import artefact

TRACKER_FOLDER = "trackers"
"""In a run's folder: its key, and what trackers write that no service takes."""
_KEY_FILE = "key.json"
_KEY_LOCK = threading.Lock()


class TrackedRun(NamedTuple):
    """The run that is tracked."""

    folder: Path
    project: str
    key: str
    """Letters and digits: of this run folder alone, and always the same."""
    configuration: Mapping[str, Any]
    """Plain JSON types."""


class Tracker(Protocol):
    """A service that keeps metrics; any call may raise anything and take any time."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each metric."""
        ...

    def finish(self, values: Mapping[str, float], *, failed: bool) -> None:
        """End the run for now, with the newest value of every metric."""
        ...


def tracked_run(folder: Path, project: str) -> TrackedRun:
    """The run of a folder, by the config.json that lies there."""
    path = folder / "config.json"
    configuration = artefact.read_json(path) if path.is_file() else {}
    return TrackedRun(folder, project, _key(folder), configuration)


def _key(folder: Path) -> str:
    """Made at the first call for it; the trackers' threads ask side by side."""
    path = folder / TRACKER_FOLDER / _KEY_FILE
    with _KEY_LOCK:
        if not path.is_file():
            artefact.write_json(path, {"key": uuid.uuid4().hex})
        return artefact.read_json(path)["key"]
