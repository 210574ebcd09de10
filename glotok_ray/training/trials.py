"""A trial of a sweep: what is changed, what its evaluations found, and how it ended, as its files keep them.

Read next: glotok_ray/training/suggestions.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glotok_ray.storage import artefact
from glotok_ray.storage.retries import Result, patiently
from glotok_ray.training.metrics_file import metric_lines
from glotok_ray.training.search_space import Changes

Status = Literal["", "finished", "stopped", "failed"]
"""How a trial ended: at the last step, early by the scheduler, with an error; "" while it has not."""
STEP = "step"


@dataclass(frozen=True)
class Trial:
    """One point of the search space, in the dotted names of the command line."""

    name: str
    """The trial's run folder."""
    changes: Changes


@dataclass(frozen=True)
class TrialRecord:
    """A trial with all that is known of it."""

    trial: Trial
    choices: Changes
    """What was chosen for it, in the names of the search; empty for the baseline and for points of a grid."""
    reports: Sequence[Mapping[str, Any]]
    """Its evaluations, in the order of steps, each with `step`."""
    status: Status
    reason: str = ""
    """Why it failed."""
    starts: int = 0
    """Processes that worked on it."""

    @property
    def last(self) -> Mapping[str, Any]:
        """The newest evaluation; empty before the first."""
        return self.reports[-1] if self.reports else {}


class TrialFiles:
    """The files beside the trials' run folders, of which each has one writer: the sweep's driver or the trial.

    What is not read or written at once is tried again for `retry_minutes`, then StorageError is raised: a trial of
    hours must not fail by a store that is away for a moment.
    """

    def __init__(self, folder: Path, retry_minutes: float = 0.0) -> None:
        self.folder, self._minutes = folder, retry_minutes

    def suggested(self, trial: Trial, choices: Changes) -> None:
        """Note a trial before it runs; by the driver."""
        values = {"changes": trial.changes, "choices": choices}

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            artefact.write_json(self._path(trial.name, "suggestion.json"), values)

        self._patiently(write, "writing")

    def started(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note that a process works on it; by the trial."""
        self._append(name, "starts.jsonl", facts)

    def last_start(self, name: str) -> dict[str, Any]:
        """What the newest process that works on a trial noted; empty before the first."""
        return (self._lines(name, "starts.jsonl") or [{}])[-1]

    def reported(self, name: str, report: Mapping[str, Any]) -> None:
        """Note an evaluation; by the trial."""
        self._append(name, "reports.jsonl", report)

    def reports(self, name: str) -> list[dict[str, Any]]:
        """The evaluations, each step once."""
        by_step = {line[STEP]: line for line in self._lines(name, "reports.jsonl")}
        return [by_step[step] for step in sorted(by_step)]

    def ended(self, name: str, status: Status, reason: str = "") -> None:
        """Note how it ended; by the driver."""
        end = {"status": status, "reason": reason}
        path = self._path(name, "end.json")
        self._patiently(lambda: artefact.write_json(path, end), "writing")

    def reopen(self, name: str) -> None:
        """Forget how it ended: it is tried again."""
        path = self._path(name, "end.json")
        self._patiently(lambda: path.unlink(missing_ok=True), "removing")

    def names(self) -> list[str]:
        """The trials that were suggested, in order."""
        ending = "_suggestion.json"
        found = self._patiently(lambda: [*self.folder.glob(f"*{ending}")], "listing")
        return sorted(path.name.removesuffix(ending) for path in found)

    def record(self, name: str) -> TrialRecord:
        """All of a trial."""
        suggested, ended = self._path(name, "suggestion.json"), self._path(name, "end.json")
        suggestion = self._patiently(lambda: artefact.read_json(suggested))
        end: dict[str, Any] = {"status": "", "reason": ""}
        if self._patiently(ended.is_file):
            end = self._patiently(lambda: artefact.read_json(ended))
        return TrialRecord(
            trial=Trial(name, suggestion["changes"]),
            choices=suggestion["choices"],
            reports=self.reports(name),
            status=end["status"],
            reason=end["reason"],
            starts=len(self._lines(name, "starts.jsonl")),
        )

    def records(self) -> list[TrialRecord]:
        """All trials so far, in order."""
        return [self.record(name) for name in self.names()]

    def _path(self, name: str, what: str) -> Path:
        return self.folder / f"{name}_{what}"

    def _append(self, name: str, what: str, values: Mapping[str, Any]) -> None:
        path = self._path(name, what)
        self._patiently(artefact.line_appender(path, values), "writing")

    def _lines(self, name: str, what: str) -> list[dict[str, Any]]:
        path = self._path(name, what)
        return self._patiently(lambda: [*metric_lines(path)])

    def _patiently(self, action: Callable[[], Result], doing: str = "reading") -> Result:
        return patiently(action, self.folder, minutes=self._minutes, doing=doing)
