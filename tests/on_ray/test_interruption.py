"""Waits in threads, which no signal reaches: they end when a folder of the process is lost. Works side by side."""

import io
import os
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest
import ray
import ray.train

from glotok_ray.on_ray import interruption, process_wide
from glotok_ray.on_ray.interruption import side_by_side
from glotok_ray.storage import begun, marks, ownership
from glotok_ray.storage.ownership import FolderLostError


def in_thread(work, timeout=20):
    """What `work` raised in a thread of its own."""
    raised = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout)
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


def test_a_training_in_a_thread_ends_with_its_workers(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(interruption, "_WATCH_S", 0.2)
    alive, go_on = tmp_path / "alive", tmp_path / "go_on"

    def loop():  # what Ray sends to its workers must not name this module
        for _ in range(600):
            alive.touch()
            if go_on.exists():
                return
            time.sleep(0.1)

    def trainer(name):
        return interruption.AbortedWithDriver(
            loop,
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name=name, storage_path=str(tmp_path / "ray")),
        )

    @ownership.holding()
    def work():
        folder = begun.start_folder(tmp_path / "trial", fresh=False)
        ended = trainer("ended")

        def lose():
            while not alive.exists():
                time.sleep(0.05)
            theirs = '{"token": "theirs", "fingerprint": "", "owner": null}'
            (folder / ".begun.json").write_text(theirs)

        threading.Thread(target=lose).start()
        interruption.wait_for(ended.fit, ended.abort)

    (error,) = in_thread(work, timeout=90)
    assert isinstance(error, FolderLostError)
    alive.unlink()
    time.sleep(1)
    assert not alive.exists()

    too_early = trainer("early")
    too_early.abort()
    with pytest.raises(ray.exceptions.RayError):
        too_early.fit()
    assert not alive.exists()

    go_on.touch()
    assert trainer("whole").fit().error is None
    assert in_thread(trainer("in a thread").fit, timeout=90) == []


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

    with pytest.raises(ValueError, match="1") as raised:
        side_by_side([partial(work, number) for number in (0, 1, 2)])
    (note,) = raised.value.__notes__
    assert note.startswith("and beside it:")
    assert note.endswith("ValueError: 2\n")
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
