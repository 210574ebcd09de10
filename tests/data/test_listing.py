"""Listings by threads: in order, silent where short, with progress where long."""

import logging
import threading

import pytest

from glotok_ray.data import listing
from glotok_ray.data.listing import list_in_threads, printable


def test_threads_keep_the_order_and_wait_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)

    def list_one(item: int) -> int:
        both.wait()
        return item * 10

    assert list_in_threads(list_one, [3, 1], unit="classes") == [30, 10]
    assert list_in_threads(list_one, [], unit="classes") == []


def test_an_error_ends_the_listing() -> None:
    def list_one(item: int) -> int:
        raise ValueError(f"{item} is bad")

    with pytest.raises(ValueError, match="0 is bad"):
        list_in_threads(list_one, range(100), unit="classes")


def test_a_long_listing_shows_progress(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        list_in_threads(str, range(5), unit="classes")
        assert caplog.text == ""
        monkeypatch.setattr(listing, "_SHOWN_AFTER_S", -1.0)
        list_in_threads(str, range(5), unit="classes")
    assert "listing: 5/5 classes" in caplog.text


def test_names_that_are_no_utf8_are_written_out() -> None:
    assert printable("a\udcff") == "a\\udcff"
