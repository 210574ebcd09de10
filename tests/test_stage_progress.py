"""The time left over several stages: expectations, corrected by what stages took."""

import logging
import threading
from typing import Any

import pytest

from glotok_ray.progress import Piece, ProgressLine
from glotok_ray.recipes.quickstart import EXPECTED_SECONDS, LANES, NEEDED, STAGES
from glotok_ray.stage_progress import Present, StageLines, TimeLeft

EXPECTED = {"data": 10.0, "tokenizer": 200.0, "report": 10.0}


def piece(share: float, left: float) -> Piece:
    return Piece("tokenizer", int(100 * share), 100, "steps", "", 0, left, 1000.0)


def present(name: str, elapsed: float, piece: Piece | None = None) -> dict[str, Present]:
    """A stage at second 1,000 of the clock."""
    return {name: Present(1000.0 - elapsed, 0, piece)}


def test_before_anything_is_known_expectations_count() -> None:
    left = TimeLeft(EXPECTED)
    assert left.all(present("data", 0.0), 1000.0) == pytest.approx(220)
    assert left.all(present("data", 4.0), 1000.0) == pytest.approx(216)
    assert left.all(present("data", 50.0), 1000.0) == pytest.approx(210)


def test_a_slow_stage_makes_the_others_slow_and_a_short_one_says_little() -> None:
    left = TimeLeft(EXPECTED)
    left.finish("data", 40.0)
    # (40 + 22) / (10 + 22), where 22 is the weight of the expectations.
    assert left.all(present("tokenizer", 0.0), 1000.0) == pytest.approx(210 * 62 / 32)
    left.finish("tokenizer", 800.0)
    assert left.all(present("report", 0.0), 1000.0) == pytest.approx(10 * 862 / 232)


def test_a_stage_that_was_there_says_nothing_about_the_others() -> None:
    left = TimeLeft(EXPECTED | {"data": 0.0})
    left.finish("data", 0.1, counts=False)
    assert left.all(present("tokenizer", 0.0), 1000.0) == pytest.approx(210)


def test_a_stage_of_any_size_says_nothing_about_the_others(caplog: Any) -> None:
    left = TimeLeft(EXPECTED)
    slow = Present(1000.0 - 400.0, 0, piece(0.5, 400.0), is_measure=False)
    assert left.all({"data": slow}, 1000.0) == pytest.approx(400 + 210)
    slow.is_measure = True
    assert left.all({"data": slow}, 1000.0) > 400 + 1000
    caplog.set_level(logging.INFO)
    for is_measure, told in ((True, False), (False, True)):
        caplog.clear()
        with StageLines({"data": "d", "report": "r"}, {"data": 900, "report": 100}) as lines:
            with lines.stage("data", is_measure=is_measure):
                pass
            with lines.stage("report"):
                pass
        assert ("all: about 1:40" in caplog.messages[-1]) == told


def test_a_pieces_own_rate_counts_once_a_fifth_of_it_is_done() -> None:
    left = TimeLeft(EXPECTED)
    left.finish("data", 10.0)

    def of_stage(elapsed: float, share: float, rest: float) -> float:
        stage = Present(1000.0 - elapsed, 0, piece(share, rest))
        return left.stage("tokenizer", stage, 1000.0)

    assert of_stage(0.0, 0.0, 900.0) == pytest.approx(200)
    assert of_stage(0.0, 0.1, 600.0) == pytest.approx((200 + 600) / 2)
    assert of_stage(200.0, 0.5, 200.0) == pytest.approx(200)
    assert of_stage(396.0, 0.99, 4.0) == pytest.approx(4, abs=0.1)
    # Twice as slow as expected: so will be the report.
    whole = left.all(present("tokenizer", 396.0, piece(0.99, 4.0)), 1000.0)
    assert whole == pytest.approx(4 + 19, abs=1)
    # On a fast machine the expectation gives way, also when the piece is done.
    assert of_stage(50.0, 0.5, 50.0) == pytest.approx(50)
    assert of_stage(100.0, 1.0, 0.0) == pytest.approx(25)


def test_of_lanes_side_by_side_the_longest_counts() -> None:
    expected = {"data": 10.0, "tokenizer": 200.0, "codes": 10.0, "twin": 170.0, "report": 10.0}
    left = TimeLeft(expected, [("tokenizer", "codes"), ("twin",)])
    assert left.all(present("data", 0.0), 1000.0) == pytest.approx(230)
    left.finish("data", 10.0)
    both = present("tokenizer", 100.0) | present("twin", 20.0)
    assert left.all(both, 1000.0) == pytest.approx(150 + 10)
    left.finish("tokenizer", 200.0)
    both = present("codes", 0.0) | present("twin", 100.0, piece(0.25, 60.0))
    assert left.all(both, 1000.0) == pytest.approx(60 + 10, abs=1)
    left.lanes = ()
    assert left.all(both, 1000.0) == pytest.approx(60 + 10 + 10, abs=1)


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


def test_lanes_have_the_stages_in_order_and_wait_for_what_another_lane_makes() -> None:
    names = list(STAGES)
    in_lanes = [name for lane in LANES for name in lane]
    assert sorted(in_lanes, key=names.index) == names[2:]
    for name, needed in NEEDED.items():
        (own,) = (lane for lane in LANES if name in lane)
        assert needed not in own


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


def test_pieces_go_to_the_stage_of_their_name_or_of_their_thread(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    titles = {"tokenizer": "with", "twin": "without", "report": "page"}
    begun, over = threading.Event(), threading.Event()
    with StageLines(
        titles, {"tokenizer": 90, "twin": 60, "report": 10}, [("twin",), ("tokenizer",)]
    ) as lines:

        def other() -> None:
            with lines.stage("twin"):
                ProgressLine("evaluate", 4, interval_s=0.0).update(1)
                begun.set()
                assert over.wait(10)

        thread = threading.Thread(target=other)
        with lines.stage("tokenizer"):
            thread.start()
            assert begun.wait(10)
            ProgressLine("encode", 4, interval_s=0.0).update(1)
            # From a thread that watches.
            shown = ProgressLine("twin", 9, "steps", interval_s=0.0)
            watcher = threading.Thread(target=shown.update, args=(3,))
            watcher.start()
            watcher.join()
        over.set()
        thread.join()
        with lines.stage("report"):
            pass
    heads = [line.split(":")[0] for line in caplog.messages]
    assert heads == [
        "stage 1/3 tokenizer",
        "stage 2/3 twin",
        "2/3 twin, evaluate",
        "1/3 tokenizer, encode",
        "2/3 twin",
        "stage 3/3 report",
    ]
    assert caplog.messages[0].endswith("all: about 1:40")
