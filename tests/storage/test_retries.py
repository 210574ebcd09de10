"""Patience with storage: what is tried again, how often, and what is said when it does not help."""

import logging
import time
from pathlib import Path

import pytest

from glotok_ray.storage.retries import StorageError, patiently


class Flaky:
    """Fails `times` times, then answers."""

    def __init__(self, times: int, error: Exception) -> None:
        self.calls, self._times, self._error = 0, times, error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return "answer"


def test_an_action_is_tried_again_with_growing_pauses_and_one_warning(caplog) -> None:
    pauses: list[float] = []
    action = Flaky(9, FileNotFoundError("gone"))
    with caplog.at_level(logging.WARNING):
        assert patiently(action, Path("a/shard"), minutes=60, sleep=pauses.append) == "answer"
    assert action.calls == 10
    for number, pause in enumerate(pauses):
        whole = min(0.2 * 2**number, 30.0)
        assert whole / 2 <= pause <= whole
    assert [record.getMessage() for record in caplog.records] == [
        "a/shard: reading it failed (gone); trying again for up to 60 minutes"
    ]


def test_after_the_limit_the_path_and_the_cause_are_named() -> None:
    with pytest.raises(
        StorageError, match=r"^a/shard: writing it failed for 0 minutes.*no room.*same command"
    ):
        patiently(Flaky(3, OSError("no room")), Path("a/shard"), minutes=0, doing="writing")


def test_the_limit_is_kept_although_pauses_grow() -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        time.sleep(seconds)

    with pytest.raises(StorageError):
        patiently(Flaky(10**9, OSError("away")), Path("x"), minutes=0.02, sleep=wait)
    assert max(waited) <= 1.2


def test_other_errors_are_not_tried_again() -> None:
    action = Flaky(5, ValueError("damaged"))
    with pytest.raises(ValueError, match="damaged"):
        patiently(action, Path("x"), minutes=60)
    assert action.calls == 1
