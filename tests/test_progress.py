"""One line of progress: what it says, and how it fits a terminal."""

import logging
from typing import Any

import pytest

from glotok_ray import progress
from glotok_ray.progress import Piece, ProgressLine, duration, lay_out, plain

PIECE = Piece(
    *("tokenizer", 212, 512, "steps", "41 images/s", 10, 130.0, 5.0),
    facts="loss 0.512  gradient 1.2  step 0.4 s",
)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (754, "12:34"), (3723.2, "1:02:03")]
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_gives_way_from_its_end() -> None:
    def line(columns: int) -> str:
        return lay_out("3/13 tokenizer", PIECE, "ETA 2:10 · all 7:30", columns)

    bar, short = "[########............]", "[####......]"
    assert line(200) == (
        f"3/13 tokenizer  {bar}  212/512 steps  41 images/s  ETA 2:10 · all 7:30  "
        "loss 0.512  gradient 1.2  step 0.4 s"
    )
    assert line(110).endswith("ETA 2:10 · all 7:30  loss 0.512")
    assert line(90) == f"3/13 tokenizer  {bar}  212/512 steps  41 images/s  ETA 2:10 · all 7:30"
    assert line(80) == f"3/13 tokenizer  {bar}  212/512 steps  ETA 2:10 · all 7:30"
    assert line(70) == f"3/13 tokenizer  {short}  212/512 steps  ETA 2:10 · all 7:30"
    assert line(55) == "3/13 tokenizer  212/512 steps  ETA 2:10 · all 7:30"
    assert line(40) == "3/13 tokenizer  ETA 2:10 · all 7:30"
    assert line(8) == "3/13 tok"
    assert all(len(line(columns)) <= columns for columns in range(1, 130))


def test_a_plain_line_has_neither_bar_nor_control_characters() -> None:
    text = plain(PIECE, "3/13 tokenizer", "all 7:30")
    assert text == (
        "3/13 tokenizer: 212/512 steps  41 images/s  ETA 2:10 · all 7:30  "
        "loss 0.512  gradient 1.2  step 0.4 s"
    )
    assert text.isprintable()


def test_lines_are_logged_at_intervals_with_the_rate_of_what_is_done_now(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    # A resumed training: 100 of 300 steps of 16 images were there.
    line = ProgressLine("tokenizer", 300, "steps", images_per_unit=16)
    for seconds, done in ((20, 100), (25, 110), (30, 120), (36, 132), (120, 300)):
        clock.now = 100.0 + seconds
        line.update(done)
    assert caplog.messages == [
        "tokenizer: 100/300 steps",
        "tokenizer: 132/300 steps  32 images/s  ETA 1:24",
        "tokenizer: 300/300 steps  32 images/s  ETA 0:00",
    ]
