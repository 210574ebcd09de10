"""The order of the quickstart's stages in lanes, with stages that do nothing but note their turn. Starts no Ray."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glotok_ray.config.overrides import override
from glotok_ray.on_ray import cluster
from glotok_ray.recipes import quickstart as recipes
from glotok_ray.recipes.quickstart import LANES, STAGES
from glotok_ray.stage_progress import StageLines
from glotok_ray.stages import quickstart
from glotok_ray.stages.quickstart import Stage
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import Unfinished, look


class Noted:
    """Stages below a folder, and what they noted: "+name" at the begin of each, "-name" at its end."""

    def __init__(self, root: Path, **doing: Callable[[], Any]) -> None:
        self._doing, self.notes = doing, list[str]()
        self.stages = {
            name: Stage(name, title, self._run, name, root / name)
            for name, title in STAGES.items()
            if name != "data"
        }

    def _run(self, name: str) -> dict[str, Any]:
        self.notes.append(f"+{name}")
        self._doing.get(name, lambda: None)()
        artefact.write_json(self.stages[name].folder / artefact.MANIFEST, {})
        self.notes.append(f"-{name}")
        return {}

    def run(self) -> dict[str, dict[str, Any]]:
        with StageLines(STAGES, dict.fromkeys(STAGES, 1.0), LANES) as lines:
            return quickstart._run_lanes(self.stages, lines)

    def holds(self, *notes: str) -> bool:
        """Whether these were noted in this order."""
        places = [self.notes.index(note) for note in notes]
        return places == sorted(places)


def test_both_lanes_run_at_the_same_time_behind_the_teacher(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)
    noted = Noted(tmp_path, tokenizer=both.wait, twin=both.wait)
    records = noted.run()
    assert set(records) == set(STAGES) - {"data"}
    assert all(record["status"] == "made" for record in records.values())
    assert noted.notes[:2] == ["+teacher", "-teacher"]
    for lane in LANES:
        assert noted.holds(*(f"{sign}{name}" for name in lane for sign in "+-"))
    assert {(tmp_path / f".{name}.seconds").is_file() for name in noted.stages} == {True}


def test_far_waits_for_the_codes_of_the_other_lane(tmp_path: Path) -> None:
    noted = Noted(tmp_path, codes=lambda: time.sleep(1.5))
    noted.run()
    assert noted.holds("-twin_evaluation", "-codes", "+far")


@pytest.mark.parametrize("failing", ["tokenizer", "codes"])
def test_a_stage_that_fails_lets_the_one_beside_end_and_no_other_begin(
    tmp_path: Path, failing: str, caplog: Any
) -> None:
    failed = threading.Event()

    def fail() -> None:
        assert begun.wait(20)
        failed.set()
        raise ValueError("the cause")

    begun = threading.Event()

    def beside() -> None:
        begun.set()
        assert failed.wait(20)
        time.sleep(0.5)

    noted = Noted(tmp_path, **{failing: fail, "twin": beside})
    with pytest.raises(ValueError, match="the cause"):
        noted.run()
    assert "-twin" in noted.notes
    assert {note for note in noted.notes if note.startswith("+")} == {
        *("+teacher", "+tokenizer", "+twin", f"+{failing}")
    }
    assert (
        caplog.messages.count("the cause; what runs beside it goes on to the end of its stage") == 1
    )


def test_both_causes_are_told_where_both_lanes_fail(tmp_path: Path, caplog: Any) -> None:
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("one cause")

    def fail_later() -> None:
        assert failed.wait(20)
        time.sleep(0.3)
        raise ValueError("another cause")

    with pytest.raises(ValueError, match="one cause") as raised:
        Noted(tmp_path, tokenizer=fail, twin=fail_later).run()
    told = [message for message in caplog.messages if "cause" in message]
    assert told == [
        "one cause; what runs beside it goes on to the end of its stage",
        "another cause",
    ]
    (note,) = raised.value.__notes__
    assert "fail_later" in note


def test_room_is_for_the_trainings_their_evaluators_and_what_reads(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked: list[dict[str, float]] = []
    monkeypatch.setattr(cluster, "connect", lambda: None)
    monkeypatch.setattr(cluster, "has", lambda needed: asked.append(dict(needed)) or True)
    recipe = override(recipes.quickstart(), {"output_path": str(tmp_path)})
    assert quickstart._have_room(recipes.chain(recipe))
    assert asked == [{"CPU": 3.0}, {"CPU": 3.0}]
    asked.clear()
    evaluated = {
        "tokenizer.checkpoint_evaluation.every_steps": 64,  # the twin's, too
        "far.checkpoint_evaluation.every_steps": 64,
        "far.checkpoint_evaluation.num_cpus": 1.5,
        "far.checkpoint_evaluation.use_gpu": True,
    }
    assert quickstart._have_room(recipes.chain(override(recipe, evaluated)))
    assert asked == [{"CPU": 5.0, "GPU": 0.0}, {"CPU": 4.5, "GPU": 1.0}]


def test_what_ends_the_process_ends_the_other_lane_too(tmp_path: Path) -> None:
    waits = threading.Event()

    def stop() -> None:
        assert waits.wait(20)
        raise KeyboardInterrupt

    def wait() -> None:
        waits.set()
        while True:
            ownership.check_held()
            time.sleep(0.1)

    noted = Noted(tmp_path, tokenizer=stop, twin=wait)
    with pytest.raises(KeyboardInterrupt):
        noted.run()
    assert noted.notes[-2:] == ["+tokenizer", "+twin"] or noted.notes[-2:] == [
        "+twin",
        "+tokenizer",
    ]
    assert not [thread for thread in threading.enumerate() if thread.name == "beside"]


def test_a_file_of_a_stages_time_that_tells_nothing_is_as_none(tmp_path: Path) -> None:
    for name, text in {
        "tokenizer": "250.0 1700000000.0",
        "codes": "24",
        "far": "",
        "data": "?",
        "teacher": "3.0 1700000000.0 stopped\n9.0 1700000100.0\n",  # resumed: neither is the whole
        "generator": "? 1700000000.0\n",
    }.items():
        (tmp_path / f".{name}.seconds").write_text(text)
    assert quickstart._known_seconds(tmp_path) == {"tokenizer": 250, "codes": 24}


def left_by_a_run(root: Path) -> Path:
    """A finished quickstart's folder: its own files, its stages', and what a job that was run by hand has added."""
    for name in ("data/train", "data/validation", *list(STAGES)[1:], "scales"):
        with ownership.holding():
            look(root / name, "thing", {}).begin(Unfinished.REPLACE)
            look(root / name, "thing", {}).finish()
    for name in STAGES:
        (root / f".{name}.seconds").write_text("1.0 1.0")
    for name in ("log.txt", "config.json", "versions.json", "stages.json", "report.html"):
        (root / name).touch()
    return root


def test_fresh_checks_the_source_before_it_touches_what_is_there(tmp_path: Path) -> None:
    root = left_by_a_run(tmp_path / "mine")
    before = sorted(tmp_path.rglob("*"))
    run = override(
        recipes.quickstart(),
        {"output_path": str(root), "data.source": str(tmp_path / "photso")},
    )
    with pytest.raises(ValueError, match="photso"):
        quickstart.run(run, fresh=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_fresh_again_after_a_failure_keeps_the_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = left_by_a_run(tmp_path / "mine")
    run = override(recipes.quickstart(), {"output_path": str(root)})

    def dies(*given: object) -> None:
        raise ValueError("dies")

    monkeypatch.setattr(quickstart, "_run_stages", dies)
    for _ in range(3):
        with pytest.raises(ValueError, match="dies"):
            quickstart.run(run, fresh=True)
        assert (tmp_path / "mine.previous" / "report.html").is_file()
        assert (tmp_path / "mine.previous" / "scales" / "manifest.json").is_file()
        assert not (root / "report.html").exists()


@pytest.mark.parametrize("place", [".", "runs"])
def test_fresh_moves_no_project_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    left_by_a_run(tmp_path / "runs" / "mine")
    (tmp_path / "thesis.tex").write_text("years")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    run = override(recipes.quickstart(), {"output_path": place})
    with pytest.raises(ArtefactError, match="no job of this package began it, and --fresh would"):
        quickstart.run(run, fresh=True)
    assert sorted(tmp_path.rglob("*")) == before
