"""What a sweep tries: points of a space in the fields' own types, and a search that a restart does not change."""

import math
import threading

import pytest

from glotok_ray.config import SearchField, SweepRun, override
from glotok_ray.recipes import sweep_tokenizer
from glotok_ray.storage.retries import StorageError
from glotok_ray.training.search_space import baseline, corners, grid
from glotok_ray.training.suggestions import Suggestions, first_trials
from glotok_ray.training.trials import Trial, TrialFiles, TrialRecord

WEIGHT, BINS, ALPHA = "loss.relation_weight", "loss.relation.num_bins", "loss.relation.alpha"


def space(*fields, **changes):
    return override(SweepRun(), {"space": fields, **changes})


def test_a_grid_holds_one_point_without_relation_loss_and_alpha_follows_the_bins() -> None:
    config = override(SweepRun(), {"space.1.values": (21.0,), "space.2.values": (1.0, 2.0)})
    # Two weights above 0 and two factors; bin width 0.1, so that 1 / (2 * width^2) = 50.
    assert grid(config) == [
        {WEIGHT: 0.0},
        *(
            {WEIGHT: weight, BINS: 21, ALPHA: pytest.approx(alpha)}
            for weight in (0.01, 0.1)
            for alpha in (50.0, 100.0)
        ),
    ]
    trials = first_trials(override(config, {"num_trials": 5}))
    assert trials[0] == Trial("trial_00", {WEIGHT: 0.0})
    assert sorted(map(str, grid(config))) == sorted(str(trial.changes) for trial in trials)
    with pytest.raises(ValueError, match="num_trials = 6: the search space holds only 5 points"):
        first_trials(override(config, {"num_trials": 6}))


def test_any_field_is_varied_in_its_own_type() -> None:
    config = space(
        SearchField(field="optimizer.learning_rate", values=(1.0,)),
        SearchField(field="model.codebooks.0.size", values=(64.0, 128.0)),
        SearchField(field="model.residual.enabled", words=("true", "false")),
        SearchField(field="data.crop", words=("center",)),
        search="grid",
    )
    assert baseline(config) is None
    points = grid(config)
    assert len(points) == 4
    assert points[1] == {
        "optimizer.learning_rate": 1.0,
        "model.codebooks.0.size": 64,
        "model.residual.enabled": False,
        "data.crop": "center",
    }
    assert type(points[0]["optimizer.learning_rate"]) is float
    assert type(points[0]["model.codebooks.0.size"]) is int
    assert override(config.tokenizer, points[1]).model.codebooks[0].size == 64


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (SearchField(field="loss.wieght", values=(1.0,)), r"'loss\.wieght' is no field of the tok"),
        (SearchField(field="model.codebooks.9.size", values=(1.0,)), "is no field of the token"),
        (SearchField(field="seed", values=(1.5,)), r"seed = 1\.5: must be a whole number"),
        (SearchField(field="seed", words=("one",)), r"seed = 'one': takes numbers"),
        (SearchField(field="name", values=(1.0,)), r"name = 1\.0: takes words"),
        (
            SearchField(field="audit_keys", words=("yes",)),
            r"'yes': is a switch; write true or false",
        ),
    ],
)
def test_what_no_field_can_be_is_told(field, text) -> None:
    with pytest.raises(ValueError, match=text):
        grid(space(field))


def test_an_end_that_no_run_can_have_is_told_before_any_trial() -> None:
    config = override(sweep_tokenizer.quickstart_search(), {"space.1.low": 1.0})
    with pytest.raises(ValueError, match=r"num_bins = 1: must be at least 2"):
        first_trials(config)


def test_ends_of_ranges_are_tried_alone_and_together_before_any_trial() -> None:
    config = sweep_tokenizer.quickstart_search()
    found = list(corners(config))
    assert {BINS: 16} in found
    assert {BINS: 80} in found
    sharpest = 2.0 / (2 * (2 / 79) ** 2)
    assert found[-1] == {WEIGHT: 3.0, BINS: 80, ALPHA: pytest.approx(sharpest)}


@pytest.mark.parametrize("search", ["optuna", "random"])
def test_a_search_that_is_taken_up_again_suggests_what_it_would_have(search) -> None:
    config = override(sweep_tokenizer.quickstart_search(), {"search": search})
    whole, parts = searched(config), searched(config, stops_after=(3, 7))
    assert whole == parts
    assert len(whole) == config.num_trials
    assert whole[0].changes == {WEIGHT: 0.0}
    assert len({str(trial.changes) for trial in whole}) == len(whole)
    for trial in whole[1:]:
        assert 0.03 <= trial.changes[WEIGHT] <= 3.0
        assert 16 <= trial.changes[BINS] <= 80


def test_tpe_learns_from_what_it_is_told() -> None:
    """Best at weight 0.1: later draws come nearer to it than the first, which know nothing."""
    config = override(sweep_tokenizer.quickstart_search(), {"num_trials": 40, "seed": 1})
    away = [abs(math.log(trial.changes[WEIGHT] / 0.1)) for trial in searched(config)[1:]]
    assert sum(away[-15:]) / 15 < 0.7 * sum(away[:5]) / 5


def searched(config, stops_after=()) -> list[Trial]:
    """All trials of a search whose best weight is 0.1; every third is stopped, and the fifth fails."""
    suggestions, records = Suggestions(config), []
    while (found := suggestions.ask()) is not None:
        trial, choices = found
        loss = (math.log(max(trial.changes[WEIGHT], 1e-3)) - math.log(0.1)) ** 2
        number = len(records)
        status = "failed" if number == 4 else "stopped" if number % 3 == 2 else "finished"
        steps = {"failed": (), "stopped": (8,), "finished": (8, 32)}[status]
        reports = [{"step": step, "fd_effnet": loss + 1 / step} for step in steps]
        suggestions.tell(trial.name, reports, status)
        records.append(TrialRecord(trial, choices, reports, status))
        if len(records) in stops_after:
            suggestions = Suggestions(config)
            suggestions.replay(records)
    return [record.trial for record in records]


def test_a_trial_that_had_not_ended_is_replayed_and_told_later() -> None:
    config = sweep_tokenizer.quickstart_search()
    first = Suggestions(config)
    begun = [first.ask() for _ in range(3)]
    again = Suggestions(config)
    again.replay(TrialRecord(trial, choices, [], "") for trial, choices in begun)
    for suggestions in (first, again):
        suggestions.tell("trial_02", [{"step": 32, "fd_effnet": 1.0}], "finished")
    assert first.ask() == again.ask()


def test_the_files_of_a_trial_keep_what_is_known(tmp_path) -> None:
    files = TrialFiles(tmp_path / "trials")
    trial = Trial("trial_00", {WEIGHT: 0.5, "model.residual.enabled": False})
    files.suggested(trial, {WEIGHT: 0.5})
    files.started("trial_00", {"pid": 1})
    for step in (16, 8, 16):
        files.reported("trial_00", {"step": step, "psnr": float(step)})
    (record,) = files.records()
    assert (record.trial, record.choices, record.status) == (trial, {WEIGHT: 0.5}, "")
    assert [report["step"] for report in record.reports] == [8, 16]
    assert (record.last["psnr"], record.starts) == (16.0, 1)
    files.ended("trial_00", "failed", "no room")
    assert (files.record("trial_00").status, files.record("trial_00").reason) == (
        "failed",
        "no room",
    )
    files.reopen("trial_00")
    assert files.record("trial_00").status == ""


def test_a_folder_that_is_away_for_a_moment_fails_no_trial(tmp_path) -> None:
    top = tmp_path / "share"
    top.write_text("not mounted")

    def mount() -> None:
        top.unlink()
        top.mkdir()

    threading.Timer(0.4, mount).start()
    files = TrialFiles(top / "trials", retry_minutes=0.5)
    files.suggested(Trial("trial_00", {WEIGHT: 0.5}), {})
    assert files.names() == ["trial_00"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"trials: writing it failed"):
        TrialFiles(tmp_path / "file" / "trials").ended("trial_00", "finished")
