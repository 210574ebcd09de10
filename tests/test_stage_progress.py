"""The time left over several stages: expectations, corrected by what stages took."""

import logging
from typing import Any

import pytest

from glotok_ray.progress import Piece, ProgressLine
from glotok_ray.recipes.quickstart import EXPECTED_SECONDS, STAGES
from glotok_ray.stage_progress import StageLines, TimeLeft

EXPECTED = {"data": 10.0, "tokenizer": 200.0, "report": 10.0}


def piece(share: float, left: float) -> Piece:
    return Piece("tokenizer", int(100 * share), 100, "steps", "", 0, left, 0.0)


def test_before_anything_is_known_expectations_count() -> None:
    left = TimeLeft(EXPECTED)
    assert left.all("data", 0.0) == pytest.approx(220)
    assert left.all("data", 4.0) == pytest.approx(216)
    assert left.all("data", 50.0) == pytest.approx(210)


def test_a_slow_stage_makes_the_others_slow_and_a_short_one_says_little() -> None:
    left = TimeLeft(EXPECTED)
    left.finish("data", 40.0)
    # (40 + 22) / (10 + 22), where 22 is the weight of the expectations.
    assert left.all("tokenizer", 0.0) == pytest.approx(210 * 62 / 32)
    left.finish("tokenizer", 800.0)
    assert left.all("report", 0.0) == pytest.approx(10 * 862 / 232)


def test_a_stage_that_was_there_says_nothing_about_the_others() -> None:
    left = TimeLeft(EXPECTED | {"data": 0.0})
    left.finish("data", 0.1, counts=False)
    assert left.all("tokenizer", 0.0) == pytest.approx(210)


def test_a_pieces_own_rate_counts_once_a_fifth_of_it_is_done() -> None:
    left = TimeLeft(EXPECTED)
    left.finish("data", 10.0)
    begun, little, half, nearly = ((0.0, 900.0), (0.1, 600.0), (0.5, 200.0), (0.99, 4.0))
    assert left.stage("tokenizer", 0.0, piece(*begun)) == pytest.approx(200)
    assert left.stage("tokenizer", 0.0, piece(*little)) == pytest.approx((200 + 600) / 2)
    assert left.stage("tokenizer", 200.0, piece(*half)) == pytest.approx(200)
    assert left.stage("tokenizer", 396.0, piece(*nearly)) == pytest.approx(4, abs=0.1)
    # Twice as slow as expected: so will be the report.
    assert left.all("tokenizer", 396.0, piece(*nearly)) == pytest.approx(4 + 19, abs=1)
    # On a fast machine the expectation gives way, also when the piece is done.
    assert left.stage("tokenizer", 50.0, piece(0.5, 50.0)) == pytest.approx(50)
    assert left.stage("tokenizer", 100.0, piece(1.0, 0.0)) == pytest.approx(25)


def test_what_is_left_of_a_resumed_training_says_nothing_about_other_stages(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    titles = {"tokenizer": "training", "report": "page"}
    for begun_at, left in ((80, "all: about 1:40"), (5, "all: about 0:11")):
        caplog.clear()
        with StageLines(titles, {"tokenizer": 500, "report": 100}) as lines:
            with lines.stage("tokenizer"):
                line = ProgressLine("tokenizer", 100, "steps", interval_s=0.0)
                line.update(begun_at)
                line.update(100)
            with lines.stage("report"):
                pass
        # Of 500 expected seconds the training took none.
        assert left in caplog.messages[-1]


def test_every_stage_of_the_quickstart_has_an_expectation() -> None:
    assert set(EXPECTED_SECONDS) == {*STAGES, "report"}


def test_pieces_of_a_stage_are_logged_in_its_name_with_the_time_left_over_all(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with StageLines({"data": "shards", "report": "page"}, {"data": 90, "report": 30}) as lines:
        with lines.stage("data"):
            ProgressLine("encode", 4, interval_s=0.0).update(0)
        with lines.stage("report", is_there=True):
            ProgressLine("report", 4).update(4)
    ProgressLine("alone", 4).update(4)
    assert caplog.messages == [
        "stage 1/2 data: shards; all: about 2:00",
        "1/2 data, encode: 0/4 images  all 2:00",
        "stage 2/2 report: page; all: about 0:04",
        "2/2 report: 4/4 images  ETA 0:00 · all 0:00",
        "alone: 4/4 images  ETA 0:00",
    ]
