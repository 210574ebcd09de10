"""Trials and rows under Ray Tune: how many run, and what comes of one whose process dies."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from glotok_ray.config import override
from glotok_ray.on_ray.search import run_search
from glotok_ray.on_ray.tune import TrialProcess, driver_resources, run_trials
from glotok_ray.recipes import sweep_tokenizer
from glotok_ray.training.suggestions import Suggestions
from glotok_ray.training.trials import STEP, TrialFiles

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_with_fewer_trials_than_have_begun_the_others_are_left(tmp_path: Path) -> None:
    wanted = override(sweep_tokenizer.quickstart_search(), {"num_trials": 4})
    fewer = override(wanted, {"num_trials": 2})
    files = TrialFiles(tmp_path / "trials")
    suggestions = Suggestions(wanted)
    for _ in range(3):
        files.suggested(*suggestions.ask())  # type: ignore[misc]
    files.reported("trial_00", {STEP: wanted.max_steps, wanted.judged_by: 3.0})
    files.ended("trial_00", "finished")

    def train(name: str) -> Any:
        report = {STEP: wanted.max_steps, wanted.judged_by: 2.0}
        TrialFiles(tmp_path / "trials").reported(name, report)
        yield report

    def search() -> None:
        run_search(
            fewer,
            files,
            train,
            folder=tmp_path,
            describe=lambda record: record.trial.name,
            ends_all=lambda error: error,
            keep_reason=lambda _, error: str(error),
        )

    search()
    assert [record.status for record in files.records()] == ["finished", "finished", ""]
    written = [path.stat().st_mtime_ns for path in sorted(files.folder.iterdir())]
    search()
    assert [path.stat().st_mtime_ns for path in sorted(files.folder.iterdir())] == written


def test_a_row_whose_process_dies_is_started_again_so_many_times(tmp_path: Path) -> None:
    def work(name: str) -> dict[str, Any]:
        starts = tmp_path / f"{name}.starts"
        with starts.open("a") as stream:
            stream.write("x")
        if len(starts.read_text()) <= {"once": 1, "always": 9, "never": 0}[name]:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"name": name}

    found = run_trials(
        ["once", "always", "never"],
        work,
        folder=tmp_path,
        max_concurrent=3,
        describe=lambda row: str(row["name"]),
        process=TrialProcess(driver_resources(), restarts=1),
    )
    results = {result.name: result for result in found}
    assert [results[name].row for name in ("once", "never")] == [
        {"name": "once"},
        {"name": "never"},
    ]
    assert results["always"].error is not None
    assert (tmp_path / "always.starts").read_text() == "xx"
