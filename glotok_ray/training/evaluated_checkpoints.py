"""What a run's folder tells of its evaluated checkpoints: a row for each, and the weights of the best one.

The best weights are a copy, so that the removal of old checkpoints never touches them. Needs no torch.
Read next: glotok_ray/training/checkpoint_watch.py
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray.config.checkpoint_evaluation import ChosenMetric
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import move_tree, remove_tree
from glotok_ray.training.metrics_file import metric_lines

ROWS_FILE = "checkpoint_metrics.jsonl"
"""In a run's folder: one row per evaluated checkpoint."""
WORK_FOLDER = "checkpoint_evaluation"
"""In a run's folder: weights and parts of the evaluation that is under way."""
BEST_FOLDER = "best"
"""In a run's folder: the weights of the best evaluated checkpoint, in a folder of their own that other jobs read."""
_BEST_FILE = "best.json"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The evaluation of one checkpoint."""

    step: int
    metrics: dict[str, dict[str, Any]]
    """Entries as in metrics.json, with protocol and facts."""
    seconds: float
    weights: Path
    """Folder with a copy of the weights, on the run folder's storage."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How checkpoints are measured: rows of another protocol are kept, and compared with none of this one."""

    settings: dict[str, Any]
    fingerprint: str


class EvaluatedCheckpoints:
    """The rows of one protocol, and the best among them by the chosen metric."""

    def __init__(self, folder: Path, chosen: ChosenMetric, protocol: Protocol) -> None:
        self._folder, self._chosen, self._protocol = folder, chosen, protocol
        rows = metric_lines(folder / ROWS_FILE)
        own = [row for row in rows if row.get("protocol") == protocol.fingerprint]
        self.steps: set[int] = {row["step"] for row in own}
        """Steps that have a row."""
        self._best: dict[str, Any] | None = self._read_best()

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint; None while no evaluation gave a finite value."""
        return self._best["step"] if self._best else None

    def add(self, measured: Measured) -> bool:
        """Append a row; returns whether the checkpoint is the best so far. Then its weights are kept, else removed.

        The weights are kept first: a run that is killed in between measures this checkpoint once more, while one with
        a row and without its weights would have lost them.
        """
        value = self.value_of(measured)
        is_best = value is not None and self._is_better(value)
        if is_best:
            self._keep(measured, value)
        row = {
            "step": measured.step,
            "metrics": measured.metrics,
            "seconds": measured.seconds,
            "unix_s": int(time.time()),
            "protocol": self._protocol.fingerprint,
            "settings": self._protocol.settings,
        }
        artefact.append_line(self._folder / ROWS_FILE, row)
        self.steps.add(measured.step)
        remove_tree(measured.weights, ignore_errors=True)
        return is_best

    def value_of(self, measured: Measured) -> float | None:
        """The chosen metric; None where it is undefined or not finite."""
        return measured.metrics[self._chosen.entry]["value"]

    def _is_better(self, value: float) -> bool:
        if self._best is None:
            return True
        before = self._best["value"]
        return value > before if self._chosen.higher_is_better else value < before

    def _keep(self, measured: Measured, value: float | None) -> None:
        place = self._folder / BEST_FOLDER / measured.weights.name
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            remove_tree(place)
        move_tree(measured.weights, place)
        best = {
            "step": measured.step,
            "metric": self._chosen.entry,
            "value": value,
            "protocol": self._protocol.fingerprint,
            "folder": place.name,
        }
        artefact.write_json(place.parent / _BEST_FILE, best)
        self._best = best
        for other in place.parent.iterdir():
            if other.is_dir() and other != place:
                remove_tree(other)

    def _read_best(self) -> dict[str, Any] | None:
        """The best of an earlier start; None where it was chosen by another metric or protocol."""
        best = read_best(self._folder)
        wanted = (self._chosen.entry, self._protocol.fingerprint)
        return best if best and (best["metric"], best["protocol"]) == wanted else None


def read_best(run_folder: Path) -> dict[str, Any] | None:
    """Step, metric, value and folder of the best evaluated checkpoint of a run; None while there is none."""
    pointer = run_folder / BEST_FOLDER / _BEST_FILE
    return artefact.read_json(pointer) if pointer.is_file() else None


def best_weights(run_folder: Path) -> Path:
    """The folder with the best weights of a run; raises ArtefactError when no checkpoint of it was evaluated."""
    best = read_best(run_folder)
    if best is None:
        raise ArtefactError(
            f"{run_folder}: holds no best checkpoint; train with --checkpoint-evaluation.every-steps above 0, or pass "
            "--checkpoint last"
        )
    return run_folder / BEST_FOLDER / best["folder"]


def best_text(weights: Path) -> str:
    """Why weights were kept, as a part of a sentence; empty for a folder that is no run's best."""
    if weights.parent.name != BEST_FOLDER:
        return ""
    best = read_best(weights.parents[1])
    assert best is not None
    return f", the best of its evaluated checkpoints ({best['metric']} = {best['value']:.6g})"
