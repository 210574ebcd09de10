"""A quickstart that is run again: times of attempts, versions of stages, its config and its refusals. Starts no Ray:
stages are small jobs that begin and finish their folders as all jobs do.
"""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glotok_ray.config.overrides import bound_settings, from_dict, override, to_dict
from glotok_ray.config.quickstart import QuickstartRun
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.recipes import quickstart as recipes
from glotok_ray.recipes.quickstart import LANES, STAGES
from glotok_ray.report import details
from glotok_ray.report.inputs import collect
from glotok_ray.report.markup import ImageFormat
from glotok_ray.stage_progress import StageLines
from glotok_ray.stages import quickstart
from glotok_ray.stages.quickstart import Stage
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import Unfinished, look
from tests.report.page_reader import PageReader

LOCAL = {f"{name}.launcher": "local" for name in ("tokenizer", "generator", "far")}


def small_job(stage: Stage) -> Callable[[Any], dict[str, Any]]:
    """Leaves what a quickstart reads of the stage, bound to all its settings."""

    def run(settings: Any) -> dict[str, Any]:
        splits = ("train", "validation") if stage.name == "data" else ("",)
        for split in splits:
            found = look(stage.folder / split, stage.name, bound_settings(settings))
            if found.finished is None:
                _fill(found.begin(Unfinished.SAME_ONLY), stage.name)
                found.finish()
        return {}

    return run


def _fill(folder: Path, stage: str) -> None:
    if stage == "data":
        image = encode_png(np.zeros((8, 8, 3), np.uint8))
        rows = [Row(f"{label}", image, label) for label in (0, 1)]
        shards = [write_shard(folder / "part-0.parquet", rows)]
        write_dataset(
            folder, classes=["a", "b"], form="crop", image_size=8, shards=shards, details={}
        )
    elif stage.endswith("evaluation"):
        artefact.write_json(folder / "metrics.json", {})
    elif stage in ("tokenizer", "twin"):
        relation: dict[str, Any] = {"bins": [-1, 0, 1], "kl_initial": 1.0, "kl_final": 0.5}
        histogram = [0.2, 0.5, 0.3]
        relation |= dict.fromkeys(("teacher", "student_initial", "student_final"), histogram)
        artefact.write_json(folder / "relation.json", relation)
    else:
        (folder / "made.txt").touch()
    _fill_listed(folder, stage)


def _fill_listed(folder: Path, kind: str) -> None:
    """What the manifest of the kind must list, where it is missing."""
    for name in artefact._ALWAYS_LISTED.get(kind, ()):
        if not (folder / name).is_file():
            artefact.write_json(folder / name, {})


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuickstartRun:
    """A quickstart whose stages are small jobs, below a folder of this test."""
    whole = quickstart.stages

    def stages(run: QuickstartRun) -> list[Stage]:
        return [Stage(s.name, s.title, small_job(s), s.settings, s.folder) for s in whole(run)]

    monkeypatch.setattr(quickstart, "stages", stages)
    return override(recipes.quickstart(), {**LOCAL, "output_path": str(tmp_path / "mine")})


def row_of(answer: dict[str, Any], stage: str) -> dict[str, Any]:
    """The stage's row."""
    return next(row for row in answer["stages"] if row["stage"] == stage)


# ------------------------------------------------------------------------------------------- times


def attempt(root: Path, doing: Callable[[], Any]) -> dict[str, Any]:
    """One attempt at a stage that has a folder; it is finished when `doing` returns."""
    folder = root / "tokenizer"

    def run(_: Any) -> dict[str, Any]:
        with ownership.holding():
            found = look(folder, "tokenizer", {})
            if found.finished is None:
                _fill_listed(found.begin(Unfinished.SAME_ONLY), "tokenizer")
                doing()
                found.finish()
        return {}

    with (
        ownership.holding(),
        StageLines(STAGES, dict.fromkeys(STAGES, 1.0), LANES) as lines,
    ):
        ownership.claim(root)
        return quickstart._run_stage(Stage("tokenizer", "t", run, None, folder), lines)


def killed(root: Path, doing: Callable[[], Any] = lambda: None) -> None:
    """An attempt that is killed at the end of `doing`."""

    def run() -> None:
        def die() -> None:
            doing()
            os.kill(os.getpid(), signal.SIGKILL)

        attempt(root, die)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def page_of(root: Path, row: dict[str, Any]) -> tuple[str, str]:
    """The summary and the table of stages, of a run of this stage alone."""
    artefact.write_json(root / "stages.json", [row])
    artefact.write_json(root / "evaluation" / "metrics.json", {"x": {"value": None}})
    inputs = collect(root)
    return details._summary(inputs), PageReader(details.stages(inputs, ImageFormat())).text


@pytest.mark.parametrize("error", [ValueError("stopped"), KeyboardInterrupt()])
def test_the_time_of_a_stage_is_that_of_all_its_attempts(
    tmp_path: Path, error: BaseException
) -> None:
    def stop() -> None:
        time.sleep(1)
        raise error

    with pytest.raises(type(error)):
        attempt(tmp_path, stop)
    row = attempt(tmp_path, lambda: time.sleep(0.2))
    assert [entry["seconds"] for entry in row["attempts"]] == [
        pytest.approx(1.0, abs=0.5),
        pytest.approx(0.2, abs=0.5),
    ]
    assert row["seconds"] >= 1.2
    assert quickstart._known_seconds(tmp_path) == {}  # neither is the whole stage's
    again = attempt(tmp_path, lambda: None)
    assert again == {**row, "status": "recognised"}
    summary, table = page_of(tmp_path, row)
    assert "at least" not in summary + table
    assert "resumed: 2 attempts" in table


def test_a_stage_that_was_killed_took_at_least_what_is_known(tmp_path: Path) -> None:
    killed(tmp_path)
    row = attempt(tmp_path, lambda: time.sleep(0.5))
    assert [entry["seconds"] is None for entry in row["attempts"]] == [True, False]
    assert quickstart._known_seconds(tmp_path) == {}
    summary, table = page_of(tmp_path, row)
    assert "in at least 0.0 minutes" in summary
    assert f"at least {row['seconds']:.1f} s" in table
    assert "resumed: 2 attempts" in table


def test_a_kill_behind_the_manifest_does_not_make_the_recognition_the_stages_time(
    tmp_path: Path,
) -> None:
    attempt(tmp_path, lambda: None)
    made, folder = tmp_path / "made", tmp_path / "tokenizer"
    folder.rename(made)
    killed(tmp_path, lambda: shutil.copytree(made, folder, dirs_exist_ok=True))
    row = attempt(tmp_path, lambda: pytest.fail("the stage is finished"))
    assert (row["status"], row["seconds"]) == ("recognised", 0)
    assert "not known" in page_of(tmp_path, row)[1]
    (tmp_path / ".tokenizer.seconds").unlink()  # made by the stage's own job
    row = attempt(tmp_path, lambda: pytest.fail("the stage is finished"))
    assert "not known" in page_of(tmp_path, row)[1]
    assert quickstart._known_seconds(tmp_path) == {}


def test_a_result_that_was_removed_by_hand_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / ".tokenizer.seconds").write_text("250.0 1700000000.0")
    row = attempt(tmp_path, lambda: None)
    assert len(row["attempts"]) == 1
    assert row["seconds"] < 10
    assert quickstart._known_seconds(tmp_path) == {"tokenizer": row["seconds"]}


# ------------------------------------------------------------------------------------------- versions


def versions_shown(root: Path) -> str:
    """The text of the page's section."""
    return PageReader(details.versions(collect(root), ImageFormat())).text


def test_a_finished_run_keeps_the_versions_that_made_it(
    small: QuickstartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(small.output_path)
    monkeypatch.setattr(artefact, "versions", lambda: {"git_commit": "aaaa", "ray": "1"})
    quickstart.run(small)
    first = versions_shown(root)
    assert ("aaaa" in first, "(" in first) == (True, False)
    artefact.write_json(root / "versions.json", {"git_commit": "aaaa"})  # as older versions did
    monkeypatch.setattr(artefact, "versions", lambda: {"git_commit": "bbbb", "ray": "1"})
    answer = quickstart.run(small)
    assert {row["status"] for row in answer["stages"]} == {"recognised"}
    assert versions_shown(root) == first
    shutil.rmtree(root / "far_evaluation")
    quickstart.run(small)
    shown = versions_shown(root)
    assert "bbbb (far_evaluation)" in shown
    assert "aaaa (data, teacher, tokenizer" in shown
    assert artefact.read_json(root / "versions.json") == {"git_commit": "aaaa"}


# ------------------------------------------------------------------------------------------- refusals


def test_a_refused_command_leaves_the_config_of_what_is_there(small: QuickstartRun) -> None:
    root = Path(small.output_path)
    quickstart.run(small)
    settings = root / "config.json"
    before = settings.read_bytes()
    was = recipes.quickstart().generator.optimizer.learning_rate
    # One of the two changes no result.
    changed = {"generator.optimizer.learning_rate": 0.5, "generator.schedule.micro_batch_size": 1}
    with pytest.raises(ArtefactError) as raised:
        quickstart.run(override(small, changed))
    assert str(raised.value) == (
        f"{root / 'generator'}: holds a finished generator made by other settings or inputs (stage generator, "
        f"generator.optimizer.learning_rate is 0.5 and was {was}); choose another output_path, or pass --fresh, which "
        "redoes all stages and keeps the old folder as mine.previous"
    )
    assert settings.read_bytes() == before
    again = quickstart.run(from_dict(QuickstartRun, artefact.read_json(settings)))
    assert {row["status"] for row in again["stages"]} == {"recognised"}


def test_the_config_tells_new_settings_once_every_stage_has_taken_them(
    small: QuickstartRun,
) -> None:
    quickstart.run(small)
    quickstart.run(override(small, {"codes.pool.num_actors": 5}))
    settings = artefact.read_json(Path(small.output_path) / "config.json")
    assert settings["codes"]["pool"]["num_actors"] == 5
    assert to_dict(from_dict(QuickstartRun, settings)) == settings


def test_unfinished_work_of_other_settings_has_the_quickstarts_remedy_too(
    small: QuickstartRun,
) -> None:
    root = Path(small.output_path)
    quickstart.run(small)
    with ownership.holding():
        shutil.rmtree(root / "codes")
        look(root / "codes", "codes", {"other": 1}).go_on()
    with pytest.raises(ArtefactError) as raised:
        quickstart.run(small)
    assert str(raised.value) == (
        f"{root / 'codes'}: holds unfinished work of other settings or inputs (stage codes); choose another "
        "output_path, or pass --fresh, which redoes all stages and keeps the old folder as mine.previous"
    )
