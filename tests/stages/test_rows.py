"""Rows of a sweep or of ablations: metrics, reasons of failures, and what of it a trial's process need not do again."""

import pytest

from glotok_ray.config import override
from glotok_ray.data.records import read_dataset
from glotok_ray.on_ray import tune
from glotok_ray.on_ray.tune import TrialProcess, TrialResult
from glotok_ray.recipes import sweep_tokenizer
from glotok_ray.recipes.tokenizer_ablations import ablations_tiny
from glotok_ray.stages import ablations, tokenizer_trials
from glotok_ray.stages.failed_rows import FAILED
from glotok_ray.stages.rows import evaluation_path, failure_path, run_rows
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import Unfinished, look
from glotok_ray.storage.retries import StorageError
from tests.small_data import write_shards


def measure(name):
    if name == "diverges":
        raise ArtefactError("step 3: total not finite")
    return {"psnr": 20.0, "fd_effnet": 9.0}


@pytest.fixture
def trials(monkeypatch):
    """What was asked of Ray Tune; trials run in this process, and `died` says which of them did not end."""
    asked = {"died": {}}

    def run_trials(names, function, **others):
        asked.update(others, names=list(names))
        for name in names:
            died = asked["died"].get(name)
            row = {} if died else function(name)
            asked.setdefault("said", []).append("" if died else others["describe"](row))
            yield TrialResult(name, row, died)

    monkeypatch.setattr(tune, "run_trials", run_trials)
    return asked


def rows(folder, names, **others):
    given = {
        "retry_failed": False,
        "max_concurrent": 2,
        "shown_as": ("ablations", "rows"),
        "process": TrialProcess({"CPU": 1}, 2),
    }
    return run_rows(
        names, measure, folder=folder, shown=lambda row: f"PSNR {row['psnr']:g}", **given | others
    )


def test_every_row_has_metrics_or_a_reason_that_is_kept(tmp_path, trials):
    trials["died"]["killed"] = RuntimeError("the worker died")
    found = rows(tmp_path / "rows", ["whole", "diverges", "killed"])
    assert found == {
        "whole": {FAILED: "", "psnr": 20.0, "fd_effnet": 9.0},
        "diverges": {FAILED: "step 3: total not finite"},
        "killed": {FAILED: "RuntimeError: the worker died"},
    }
    assert trials["said"] == ["whole: PSNR 20", "diverges: failed: step 3: total not finite", ""]
    assert (trials["folder"], trials["max_concurrent"]) == (tmp_path, 2)
    assert trials["process"] == ({"CPU": 1}, 2)
    assert trials["finished"] == []
    for name in ("diverges", "killed"):
        reason = artefact.read_json(failure_path(tmp_path / "rows", name))["reason"]
        assert reason == found[name][FAILED]


def test_rows_that_are_finished_are_told_to_the_progress_line(tmp_path, trials):
    folder = tmp_path / "rows"
    evaluation = look(evaluation_path(folder, "whole"), "evaluation", {})
    evaluation.begin(Unfinished.REPLACE)
    evaluation.finish()
    rows(folder, ["diverges"])
    rows(folder, ["whole", "diverges", "new"])
    assert trials["finished"] == ["whole", "diverges"]
    rows(folder, ["whole", "diverges", "new"], retry_failed=True)
    assert trials["finished"] == ["whole"]


def test_what_says_nothing_of_a_row_ends_all(tmp_path, trials):
    trials["died"]["b"] = StorageError("away")
    with pytest.raises(StorageError):
        rows(tmp_path / "rows", ["a", "b"])
    assert not failure_path(tmp_path / "rows", "b").exists()


@pytest.mark.parametrize(
    ("names", "retry_failed", "missing"),
    [
        (("a", "b"), False, set()),
        (("a", "b"), True, {"b"}),
        (("a",), True, set()),
        (("a", "c"), False, {"c"}),
    ],
)
def test_finished_tables_lack_new_rows_and_those_to_try_again(names, retry_failed, missing):
    manifest = {"rows": ["a", "b"], "failed": {"b": "died"}}
    assert ablations._missing_rows(manifest, names, retry_failed=retry_failed) == missing


def test_an_evaluation_that_no_trial_could_finish_is_refused_before_the_first_trains() -> None:
    sweep = override(
        sweep_tokenizer.quickstart(), {"evaluation.codes_path": "runs/quickstart/codes"}
    )
    with pytest.raises(ValueError, match=r"codes_path = .*: baselines need"):
        tokenizer_trials.check_inputs(sweep, [sweep.tokenizer])


@pytest.mark.parametrize("kind", ["sweep", "ablations"])
def test_trainings_that_end_before_max_steps_are_refused_before_the_first_trains(tmp_path, kind):
    shards = str(write_shards(tmp_path / "shards"))
    teacher = look(tmp_path / "teacher", "teacher", {})
    teacher.begin(Unfinished.REPLACE)
    for name in ("teacher.json", "teacher.safetensors"):
        (teacher.folder / name).write_text("{}")
    teacher.finish()
    recipe = sweep_tokenizer.quickstart() if kind == "sweep" else ablations_tiny()
    images = read_dataset(tmp_path / "shards").num_images
    changes = {
        "max_steps": 9,
        "tokenizer.teacher_path": str(tmp_path / "teacher"),
        "tokenizer.data.train_path": shards,
        "tokenizer.data.validation_path": "",
        "tokenizer.data.num_train_images": 0,
        "tokenizer.schedule.global_batch_size": images // 2,
        "tokenizer.schedule.micro_batch_size": 1,
        "tokenizer.schedule.epochs": 4,
        "evaluation.data_path": shards,
    }
    config = override(recipe, changes)
    message = (
        rf"max_steps = 9: tokenizer ends at step 8 .*epochs = 4 .* on {images} images\); lower"
    )
    with pytest.raises(ValueError, match=message):
        tokenizer_trials.check_inputs(config, [config.tokenizer])
