"""Waits in threads, which no signal reaches: they end when a folder of the process is lost."""

import threading
import time

import pytest

from glotok_ray.on_ray import interruption
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
        interruption.wait_for(lambda: go_on.wait(30))

    (error,) = in_thread(work)
    go_on.set()
    assert isinstance(error, FolderLostError)
    assert marks.read_mark(tmp_path / "trial").token == "theirs"
    time.sleep(0.1)


def test_a_wait_in_a_thread_has_the_answer_and_the_error_of_its_work():
    assert interruption.wait_for(lambda: 3) == 3

    def fail():
        raise ValueError("no")

    def work():
        assert interruption.wait_for(lambda: 3) == 3
        interruption.wait_for(fail)

    (error,) = in_thread(work)
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="no"):
        interruption.wait_for(fail)
