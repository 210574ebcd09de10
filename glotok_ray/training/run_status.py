"""Where trainings are, from the files of their folders alone: no Ray, no process is asked.

Read next: glotok_ray/training/run_problems.py
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.storage import artefact, marks, owners
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.metrics_file import EVENT, METRICS_FILE, last_metrics, metric_lines
from glotok_ray.training.plan import LOG_FOLDER
from glotok_ray.training.stalls import HEARTBEAT_FOLDER, Beat, beats_of

_ATTEMPT = "attempt.json"
# Folders of a run, of a data set and of Ray: nothing that is shown lies in them.
_SKIPPED = {
    "checkpoints",
    "ray",
    "tune",
    "logs",
    "heartbeats",
    "stalls",
    "tensorboard",
    "trackers",
    "audit",
}
_DEEPEST = 5


class Saved(NamedTuple):
    """The newest checkpoint."""

    step: int
    age_s: float


class Status(NamedTuple):
    """One training."""

    folder: Path
    state: str
    """running, silent, stopped, failed or finished; "begun" for another job at work."""
    owner: str
    """Who works on it; empty when nobody does."""
    step: int
    total_steps: int
    """Steps after which the run ends; 0 where that is not known."""
    epoch: float | None
    phase: str
    """Of the rank that is furthest behind."""
    seconds_left: float | None
    """To the last step, at the newest rate; None without a rate, or when it does not run."""
    saved: Saved | None
    restarts: int
    metrics: Mapping[str, Any]
    """The newest value of every metric."""
    attempt: Mapping[str, Any]
    """What the driver noted last; empty without a driver."""
    beats: Mapping[int, Beat]
    """Of the present attempt, by rank."""
    beat_age_s: float | None
    """Since the newest heartbeat."""


def runs_under(root: Path) -> Iterator[Path]:
    """Folders of trainings, and other folders that a job has begun and not finished, `root` among them, by name."""
    yield from _runs_within(root, _DEEPEST)


def _runs_within(folder: Path, depth: int) -> Iterator[Path]:
    begun = (folder / marks.MARK).is_file() and not artefact.is_finished(folder)
    if begun or _is_training(folder):
        yield folder
    if not depth or not folder.is_dir():
        return
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and inner.name not in _SKIPPED and not inner.name.startswith("."):
            yield from _runs_within(inner, depth - 1)


def _is_training(folder: Path) -> bool:
    return (folder / METRICS_FILE).is_file() or (folder / LOG_FOLDER / _ATTEMPT).is_file()


def status_of(folder: Path, *, now: float | None = None) -> Status:
    """The state of one folder; `now` is in seconds since 1970. Raises ArtefactError for a folder that no job began."""
    now = time.time() if now is None else now
    mark = marks.read_mark(folder)
    finished = artefact.is_finished(folder)
    if not finished and mark is None and not _is_training(folder):
        raise ArtefactError(f"{folder}: no job has begun anything here; give a run's folder")
    attempt = _read(folder / LOG_FOLDER / _ATTEMPT)
    beats = beats_of(folder, attempt.get("number", 1))
    newest = min((_age(path, now) for path in _beat_files(folder)), default=None)
    metrics = last_metrics(folder) if (folder / METRICS_FILE).is_file() else {}
    owner = "" if finished else _owner(folder, mark, now)
    state = _state(folder, finished, bool(owner), attempt, newest)
    step = max([int(metrics.get("step", 0)), *(beat.step for beat in beats.values())])
    total = _total_steps(_read(folder / "config.json"), metrics)
    behind = min(beats.values(), key=lambda beat: beat.changes, default=None)
    return Status(
        folder=folder,
        state=state,
        owner=owner,
        step=step,
        total_steps=total,
        epoch=metrics.get("epoch"),
        phase=behind.phase if behind is not None and state in ("running", "silent") else "",
        seconds_left=_left(_read(folder / "config.json"), metrics, total - step, state),
        saved=_saved(folder, now),
        restarts=_restarts(folder, attempt),
        metrics=metrics,
        attempt=attempt,
        beats=beats,
        beat_age_s=newest,
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it is missing, or half written."""
    try:
        found = artefact.read_json(path)
    except ArtefactError:
        return {}
    return found if isinstance(found, dict) else {}


def _beat_files(folder: Path) -> list[Path]:
    return list((folder / HEARTBEAT_FOLDER).glob("rank-*.json"))


def _age(path: Path, now: float) -> float:
    try:
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return float("inf")


def _owner(folder: Path, mark: marks.Mark | None, now: float) -> str:
    """The owner that works on the folder: asked for on its own machine, known by its beats elsewhere."""
    if mark is None or mark.owner is None:
        return ""
    here = bool(mark.owner.machine) and mark.owner.machine == owners.machine()
    if here:
        alive = owners.is_this(mark.owner) or owners.is_alive(folder, mark)
    else:
        # Two clocks are compared, so that nothing is waited for: a look may be wrong by their difference.
        # In a store beats are objects of their own, of which there is none before the first beat.
        signs = (marks.beat_path(folder, mark), folder / marks.MARK)
        alive = min(_age(path, now) for path in signs) < owners.LEASE_S
    return str(mark.owner) if alive else ""


def _state(
    folder: Path, finished: bool, owned: bool, attempt: Mapping[str, Any], beat_age_s: float | None
) -> str:
    if finished:
        return "finished"
    if not _is_training(folder):
        return "begun" if owned else "stopped"
    if owned:
        quiet = beat_age_s is not None and beat_age_s > owners.LEASE_S
        return "silent" if quiet else "running"
    return "failed" if attempt.get("state") == "failed" else "stopped"


def _total_steps(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> int:
    schedule, data = config.get("schedule", {}), config.get("data", {})
    batch, epochs = schedule.get("global_batch_size", 0), schedule.get("epochs", 0)
    images = data.get("num_train_images", 0)
    if not images and metrics.get("epoch"):
        per_epoch = round(metrics["step"] / metrics["epoch"])
    else:
        per_epoch = images // batch if batch else 0
    total = per_epoch * epochs
    total = min(schedule.get("num_steps") or total, total)
    return min(schedule.get("stop_after_steps") or total, total)


def _left(
    config: Mapping[str, Any], metrics: Mapping[str, Any], steps: int, state: str
) -> float | None:
    rate = metrics.get("time/images_per_s")
    batch = config.get("schedule", {}).get("global_batch_size")
    if not rate or not batch or state != "running":
        return None
    return max(0, steps) * batch / rate


def _saved(folder: Path, now: float) -> Saved | None:
    """By the name alone of those that were committed: a manifest is written last."""
    found = sorted(path.parent for path in folder.glob(f"checkpoints/step-*/{artefact.MANIFEST}"))
    if not found:
        return None
    step = int(found[-1].name.removeprefix("step-"))
    return Saved(step, _age(found[-1] / artefact.MANIFEST, now))


def _restarts(folder: Path, attempt: Mapping[str, Any]) -> int:
    told = sum(line.get(EVENT) == "restart" for line in metric_lines(folder / METRICS_FILE))
    return max(told, attempt.get("number", 1) - 1)
