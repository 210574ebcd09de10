"""A sweep's results: ranks, finalists by mean and spread, the Pareto front, the page and the best recipe."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config import TokenizerRun, from_dict, override
from glotok_ray.recipes import sweep_tokenizer
from glotok_ray.report.sweep_charts import pareto_front, points_of
from glotok_ray.report.sweep_summary import (
    FinalistSummary,
    ranked_finalists,
    ranked_trials,
)
from glotok_ray.stages.failed_rows import FAILED
from glotok_ray.stages.sweep_finalists import chosen_finalists
from glotok_ray.stages.sweep_results import summarized, write_results
from glotok_ray.storage import artefact
from glotok_ray.training.trials import Trial, TrialRecord
from tests.report.page_reader import PageReader

WEIGHT, BINS = "loss.relation_weight", "loss.relation.num_bins"
CONFIG = override(
    sweep_tokenizer.quickstart_search(), {"num_finalists": 1, "finalist_seeds": (1, 2)}
)


def trial(number: int, status: str, *reports, reason="", **changes) -> TrialRecord:
    """Reports are (step, FD-EffNet, PSNR, distance)."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    rows = [
        {"step": step, "fd_effnet": fd, "psnr": psnr, "cosine_distance": distance, "unix_s": 1.0}
        for step, fd, psnr, distance in reports
    ]
    return TrialRecord(Trial(f"trial_{number:02d}", changes), {}, rows, status, reason, 1)


RECORDS = [
    trial(0, "finished", (8, 9.0, 10.0, 0.4), (32, 5.0, 14.0, 0.4), **{WEIGHT: 0.0}),
    trial(1, "finished", (32, 4.0, 13.0, 0.2), **{WEIGHT: 0.1, BINS: 20}),
    trial(2, "stopped", (8, 3.0, 13.0, 0.1), **{WEIGHT: 1.0, BINS: 40}),
    trial(3, "failed", reason="step 0: <b>total</b> not finite", **{WEIGHT: 3.0, BINS: 40}),
    trial(4, "finished", (32, 6.0, 15.0, 0.3), **{WEIGHT: 0.2, BINS: 30}),
    trial(5, "stopped", (16, 8.0, 13.0, 0.1), **{WEIGHT: 0.5, BINS: 40}),
    trial(6, "finished", (32, None, None, 0.3), **{WEIGHT: 0.3, BINS: 30}),
]
MEASURED = {
    "trial_01_seed_1": {FAILED: "", "fd_effnet": 6.0, "psnr": 13.0, "cosine_distance": 0.2},
    "trial_01_seed_2": {FAILED: "", "fd_effnet": 8.0, "psnr": 13.0, "cosine_distance": 0.2},
    "trial_00_seed_1": {FAILED: "", "fd_effnet": 5.5, "psnr": 14.0, "cosine_distance": 0.4},
    "trial_00_seed_2": {FAILED: "", "fd_effnet": 5.7, "psnr": 14.0, "cosine_distance": 0.4},
}


def names(records) -> list[str]:
    return [record.trial.name.removeprefix("trial_") for record in records]


def test_the_end_comes_before_the_metric_and_what_failed_is_last() -> None:
    assert names(ranked_trials(CONFIG, RECORDS)) == ["01", "00", "04", "06", "05", "02", "03"]
    by_psnr = override(CONFIG, {"metric": "psnr"})
    assert names(ranked_trials(by_psnr, RECORDS))[:3] == ["04", "00", "01"]


def test_the_front_holds_what_no_trial_beats_in_both() -> None:
    points = points_of(CONFIG, RECORDS)
    assert sorted(names(point.record for point in points)) == ["00", "01", "04"]
    assert names(point.record for point in pareto_front(CONFIG, points)) == ["01"]
    by_psnr = override(CONFIG, {"metric": "psnr"})
    front = pareto_front(by_psnr, points_of(by_psnr, RECORDS))
    assert names(point.record for point in front) == ["01", "04"]


def test_finalists_are_the_best_and_the_baseline_with_other_seeds() -> None:
    chosen = chosen_finalists(CONFIG, ranked_trials(CONFIG, RECORDS))
    assert [item.name for item in chosen] == list(MEASURED)
    assert {item.seed for item in chosen} == {1, 2}
    assert chosen_finalists(override(CONFIG, {"num_finalists": 0}), RECORDS) == []
    # Seeds of a baseline that was stopped early train to the end.
    early = [
        replace(record, status="stopped") if not number else record
        for number, record in enumerate(RECORDS)
    ]
    assert [item.name for item in chosen_finalists(CONFIG, ranked_trials(CONFIG, early))] == list(
        MEASURED
    )


def test_finalists_rank_by_mean_then_spread_and_those_of_which_a_seed_failed_are_last() -> None:
    def finalist(number, values, failed=None):
        rows = {seed: {"fd_effnet": value} for seed, value in enumerate(values)}
        return FinalistSummary(Trial(f"trial_{number:02d}", {}), rows, failed or {})

    wide, narrow = finalist(0, (1.0, 5.0)), finalist(1, (2.5, 3.5))
    worse, broken = finalist(2, (4.0, 4.0)), finalist(3, (0.1,), {1: "died"})
    ranked = ranked_finalists(CONFIG, [broken, worse, wide, narrow])
    assert names(ranked) == ["01", "00", "02", "03"]
    found = narrow.spread("fd_effnet")
    assert found == (3.0, pytest.approx(np.std([2.5, 3.5], ddof=1)))
    assert narrow.spread("psnr") is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    finalists = chosen_finalists(CONFIG, ranked_trials(CONFIG, RECORDS))
    # By mean over its seeds the baseline is better than the trial that was the best of one seed.
    assert write_results(CONFIG, RECORDS, finalists, MEASURED, path) == "trial_00"
    return path


def test_the_best_recipe_is_that_of_the_best_finalist(folder) -> None:
    best = from_dict(TokenizerRun, artefact.read_json(folder / "best_recipe.json"))
    changes = {WEIGHT: 0.0, "name": f"{CONFIG.tokenizer.name}_best"}
    assert best == override(CONFIG.tokenizer, changes)


def test_the_tables_hold_every_trial_and_every_seed(folder) -> None:
    with (folder / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows][::6] == ["trial_01", "trial_03"]
    assert list(rows[0])[:5] == ["trial", "status", "step", WEIGHT, BINS]
    assert rows[-1]["failed"] == "step 0: <b>total</b> not finite"
    assert (rows[0]["cosine_distance"], rows[-1]["fd_effnet"]) == ("0.2", "")
    with (folder / "finalists.csv").open() as stream:
        assert [row["fd_effnet"] for row in csv.DictReader(stream)] == ["5.5", "5.7", "6.0", "8.0"]
    table = (folder / "table.md").read_text()
    assert "- trial_03: step 0: <b>total</b> not finite" in table
    assert "| trial_00 | 0 | - | 2 | 5.6 \u00b1 0.14 |" in table
    with Image.open(folder / "sweep.png") as image:
        assert image.width > 300


def test_the_page_stands_alone_and_has_all_parts(folder) -> None:
    text = (folder / "sweep.html").read_text()
    page = PageReader(text)
    assert all(loaded.startswith("#") for loaded in page.loads)
    assert page.sections == [
        *("best", "trials", "coordinates", "pareto", "progress", "failed", "settings")
    ]
    assert len(page.all("svg")) == 3
    assert "step 0: <b>total</b> not finite" in page.text
    assert "<b>total</b>" not in text
    # A line per trial with an evaluation, broken where the baseline has no bins.
    parallel = text[text.index("Parallel coordinates of the trials") :].split("</svg>")[0]
    assert parallel.count("<title>trial_") == 6
    assert "4 came to the end, 2 were stopped early, 1 failed" in page.text


def test_a_finalist_that_failed_keeps_its_reason() -> None:
    finalists = chosen_finalists(CONFIG, ranked_trials(CONFIG, RECORDS))
    measured = {**MEASURED, "trial_00_seed_2": {FAILED: "died"}}
    found = {item.trial.name: item for item in summarized(finalists, measured)}
    assert found["trial_00"].failed == {2: "died"}
    assert list(found["trial_00"].rows) == [1]
    assert found["trial_01"].failed == {}
