"""Waits in threads, which no signal reaches: they end when a folder of the process is lost. Works side by side."""

import io
import os
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest

from glotok_ray.on_ray import interruption, process_wide
from glotok_ray.on_ray.interruption import side_by_side
from glotok_ray.storage import begun, marks, ownership
from glotok_ray.storage.ownership import FolderLostError


def in_thread(work):
    """What `work` raised in a thread of its own."""
    raised = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    return raised


def test_a_wait_in_a_thread_ends_when_its_folder_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(interruption, "_WATCH_S", 0.2)
    go_on = threading.Event()

    @ownership.holding()
    def work():
        folder = begun.start_folder(tmp_path / "trial", fresh=False)
        mark = marks.read_mark(folder)
        (folder / ".begun.json").write_text('{"token": "theirs", "fingerprint": "", "owner": null}')
        # The main thread, in which other work may go on, is left alone.
        ownership._beat(folder.absolute(), mark)
        interruption.wait_for(lambda: go_on.wait(30), go_on.set)

    (error,) = in_thread(work)
    assert go_on.is_set()
    assert isinstance(error, FolderLostError)
    assert marks.read_mark(tmp_path / "trial").token == "theirs"
    time.sleep(0.1)


def not_called():
    raise AssertionError


def test_a_wait_in_a_thread_has_the_answer_and_the_error_of_its_work():
    assert interruption.wait_for(lambda: 3, not_called) == 3

    def fail():
        raise ValueError("no")

    def work():
        assert interruption.wait_for(lambda: 3, not_called) == 3
        interruption.wait_for(fail, not_called)

    (error,) = in_thread(work)
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="no"):
        interruption.wait_for(fail, not_called)


def test_works_side_by_side_meet_each_other_and_answer_in_their_order():
    meeting = threading.Barrier(3, timeout=10)

    def work(number):
        meeting.wait()
        return number, threading.current_thread() is threading.main_thread()

    found = side_by_side([partial(work, number) for number in range(3)])
    assert found == [(0, True), (1, False), (2, False)]


def test_all_works_end_before_the_first_error_comes_out():
    ended = []

    def work(number):
        time.sleep(0.1 * number)
        ended.append(number)
        if number:
            raise ValueError(str(number))

    with pytest.raises(ValueError, match="1"):
        side_by_side([partial(work, number) for number in (0, 1, 2)])
    assert sorted(ended) == [0, 1, 2]


def test_what_ends_the_process_ends_the_waits_of_all_works(monkeypatch):
    aborted, waiting = threading.Event(), threading.Event()

    def first():
        assert waiting.wait(10)
        raise KeyboardInterrupt

    def second():
        waiting.set()
        interruption.wait_for(lambda: aborted.wait(30), aborted.set)

    monkeypatch.setattr(interruption, "_WATCH_S", 0.2)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([first, second])
    assert aborted.is_set()
    # Nothing is left that would end the next ones.
    assert side_by_side([lambda: 1, lambda: interruption.wait_for(lambda: 2, not_called)]) == [1, 2]


def test_a_folder_that_is_claimed_beside_is_given_back_by_its_own_work(tmp_path):
    claimed, done = threading.Event(), threading.Event()

    @ownership.holding()
    def first():
        assert claimed.wait(10)

    @ownership.holding()
    def second():
        begun.start_folder(tmp_path / "second", fresh=False)
        claimed.set()
        assert done.wait(10)
        assert ownership.holds(tmp_path / "second")

    def first_and_look():
        first()
        assert ownership.holds(tmp_path / "second")
        done.set()

    side_by_side([first_and_look, second])
    assert not ownership.holds(tmp_path / "second")
    assert marks.read_mark(tmp_path / "second").owner is None


def test_what_several_change_of_the_process_is_undone_by_the_last(monkeypatch):
    monkeypatch.delenv("GLOTOK_TEST", raising=False)
    before, streams = sys.stdout, [io.StringIO(), io.StringIO()]
    first, second = (
        ExitStack(),
        ExitStack(),
    )
    for stack, stream in zip((first, second), streams, strict=True):
        stack.enter_context(process_wide.stdout_to(stream))
        stack.enter_context(process_wide.variable("GLOTOK_TEST", str(len(os.environ))))
    sys.stdout.write("both\n")
    kept = sys.stdout
    value = os.environ["GLOTOK_TEST"]
    first.close()
    sys.stdout.write("second\n")
    assert os.environ["GLOTOK_TEST"] == value
    second.close()
    assert sys.stdout is before
    assert kept.write == before.write
    assert "GLOTOK_TEST" not in os.environ
    assert [stream.getvalue() for stream in streams] == ["", "both\nsecond\n"]
    monkeypatch.setenv("GLOTOK_TEST", "a user's")
    with process_wide.variable("GLOTOK_TEST", "ours"):
        assert os.environ["GLOTOK_TEST"] == "a user's"
    assert os.environ["GLOTOK_TEST"] == "a user's"
