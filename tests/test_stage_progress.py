"""The time left over several stages: expectations, corrected by what stages took."""

import logging
from typing import Any

import pytest

from glotok_ray.progress import Piece, ProgressLine, together
from glotok_ray.recipes.quickstart import EXPECTED_SECONDS, STAGES
from glotok_ray.stage_progress import StageLines, TimeLeft

EXPECTED = {"data": 10.0, "tokenizer": 200.0, "report": 10.0}


def piece(share: float, left: float) -> Piece:
    return Piece("tokenizer", int(100 * share), 100, "steps", 0.0, "steps", 0, left, 0.0)


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
        with lines.stage("report", there=["report"]):
            ProgressLine("report", 4).update(4)
    ProgressLine("alone", 4).update(4)
    assert caplog.messages == [
        "stage 1/2 data: shards; all: about 2:00",
        "1/2 data, encode: 0/4 images  all 2:00",
        "stage 2/2 report: page; all: about 0:04",
        "2/2 report: 4/4 images  ETA 0:00 · all 0:00",
        "alone: 4/4 images  ETA 0:00",
    ]


PAIR = {"data": "shards", "tokenizer": "with", "twin": "without", "report": "page"}


def test_stages_side_by_side_have_one_head_and_the_longest_ones_time(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    seconds = {"data": 10, "tokenizer": 200, "twin": 180, "report": 10}
    with StageLines(PAIR, seconds, [("tokenizer", "twin")]) as lines:
        with lines.stage("data"):
            pass
        with lines.stage("tokenizer", "twin"):
            for name in ("tokenizer", "twin"):
                ProgressLine(name, 512, "steps", interval_s=0.0).update(0)
            ProgressLine("audit", 5, "rows", interval_s=0.0).update(0)
            lines.end("twin")
        with lines.stage("report"):
            pass
    assert caplog.messages == [
        "stage 1/4 data: shards; all: about 3:40",
        # 22 of 32 seconds, as in the first test here, of all that is left.
        "stage 2-3/4 tokenizer, twin: with; without; all: about 2:24",
        "2/4 tokenizer: 0/512 steps  all 2:24",
        "3/4 twin: 0/512 steps  all 2:24",
        "2/4 tokenizer, audit: 0/5 rows  all 2:24",
        "stage 4/4 report: page; all: about 0:01",
    ]


def test_pieces_side_by_side_are_one_with_the_rest_of_the_slower() -> None:
    first = Piece("generator", 320, 640, "steps", 100.0, "images", 0, 90.0, 5.0, "loss 1")
    second = Piece("far", 320, 1280, "steps", 60.0, "images", 20, 200.0, 8.0)
    assert together([first]) is first
    both = together([first, second])
    assert (both.name, both.count, both.rate, both.facts) == (
        "",
        "640/1920 steps",
        "160 images/s",
        "",
    )
    assert both.share == pytest.approx(620 / 1900)
    assert both.left(8.0) == 200
    ended = first._replace(done=640, left_s=0.0)
    assert together([ended, second]).rate == "60 images/s"
    assert together([ended, second]).left(18.0) == 190
    assert together([first, second._replace(left_s=None)]).left(8.0) is None
