"""Owners of unfinished folders: the living are named and left alone, the dead are taken over, and one of many wins."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from glotok_ray import artefact, begun, marks, ownership
from glotok_ray.begun import FolderInUseError
from glotok_ray.ownership import FolderLostError
from jobs.failures import BAD_INPUT, TERMINATED, guarded

ROOT = Path(__file__).parents[1]
WORKER = """
import sys, time
from pathlib import Path
from glotok_ray import begun, ownership
from jobs.failures import guarded

@ownership.holding()
def work():
    folder = begun.start_folder(Path(sys.argv[1]), fresh=False, keep=True)
    (folder / "half").write_text("x")
    print("works", flush=True)
    time.sleep(60 if sys.argv[2] == "long" else 0)
    return 0

sys.exit(guarded("work", work))
"""


def working(folder, how="long"):
    """Another process that owns `folder`."""
    command = [sys.executable, "-c", WORKER, str(folder), how]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if how == "long":
        assert process.stdout.readline() == "works\n", process.communicate()[1]
    return process


def ended(process, number):
    """What the process wrote on stderr when it got the signal."""
    process.send_signal(number)
    return process.communicate(timeout=30)[1]


def as_if_elsewhere(folder):
    """The folder's owner, on a machine whose processes nobody here can see."""
    mark = json.loads((folder / ".begun.json").read_text())
    mark["owner"] |= {"machine": "elsewhere", "host": "node-7", "ray_job": "raysubmit_1"}
    (folder / ".begun.json").write_text(json.dumps(mark))


def forget(folder):
    """This process holds the folder no more: its next beat would find another's mark, and end these tests."""
    del ownership._held[folder.absolute()]


@pytest.fixture(autouse=True)
def nothing_held():
    with ownership.holding():
        yield


def test_a_live_owner_refuses_the_second_start_by_name_and_nothing_is_touched(tmp_path, caplog):
    folder = tmp_path / "thing"
    process = working(folder)
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    text = rf"thing: another job works on it: process {process.pid} on \S+, since 20\S+Z; wait for its end"
    for attempt in (
        lambda: begun.start_folder(folder, fresh=False),
        lambda: begun.start_folder(folder, fresh=True),
        lambda: begun.start_folder(folder, fresh=False, keep=True),
        lambda: begun.check_startable(folder, fresh=True),
        lambda: begun.go_on(folder, "question"),
        lambda: begun.set_aside(folder),
        lambda: begun.set_aside(tmp_path),
    ):
        with pytest.raises(FolderInUseError, match=text):
            attempt()
    assert guarded("some_job", lambda: begun.start_folder(folder, fresh=True)) == BAD_INPUT
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before
    ended(process, signal.SIGKILL)


def test_a_killed_owner_is_taken_over_at_once_and_what_it_left_is_there(tmp_path, caplog):
    process = working(tmp_path / "thing")
    ended(process, signal.SIGKILL)
    started = time.monotonic()
    folder = begun.start_folder(tmp_path / "thing", fresh=False, keep=True)
    assert time.monotonic() - started < 5
    assert (folder / "half").is_file()
    assert f"taken over from process {process.pid} on" in caplog.text
    assert json.loads((folder / ".begun.json").read_text())["owner"]["pid"] == os.getpid()


def test_a_process_that_was_killed_but_not_fetched_is_dead(tmp_path):
    process = working(tmp_path / "thing")
    process.kill()
    time.sleep(0.5)  # a zombie now
    assert ownership.live_owner(tmp_path / "thing") is None
    process.communicate()


def test_a_process_id_that_was_given_again_is_another_process(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    ownership.give_back(folder)
    begun.own(folder)
    mark = json.loads((folder / ".begun.json").read_text())
    mark["owner"]["process_start"] = "1"
    (folder / ".begun.json").write_text(json.dumps(mark))
    assert ownership.live_owner(folder) is None


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, TERMINATED, "ended by SIGTERM")],
)
def test_a_job_that_is_ended_gives_its_folder_back(tmp_path, caplog, number, code, said):
    process = working(tmp_path / "thing")
    assert f"work: {said}; the same command goes on" in ended(process, number)
    assert process.returncode == code
    assert json.loads((tmp_path / "thing" / ".begun.json").read_text())["owner"] is None
    assert begun.start_folder(tmp_path / "thing", fresh=False, keep=True)
    assert "taken over" not in caplog.text


def test_success_and_failure_give_the_folder_back(tmp_path):
    @ownership.holding()
    def work(fail):
        folder = begun.start_folder(tmp_path / f"thing-{fail}", fresh=False)
        assert ownership.holds(folder)
        if fail:
            raise ValueError("no")
        return artefact.write_manifest(folder, "thing")

    work(False)
    assert [path.name for path in (tmp_path / "thing-False").iterdir()] == ["manifest.json"]
    with pytest.raises(ValueError, match="no"):
        work(True)
    assert [path.name for path in (tmp_path / "thing-True").iterdir()] == [".begun.json"]
    assert marks.read_mark(tmp_path / "thing-True").owner is None


def test_an_owner_elsewhere_lives_as_long_as_its_mark_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "LEASE_S", 2.0)
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    as_if_elsewhere(folder)
    forget(folder)
    # Its clock may say what it likes.
    beats = threading.Event()

    def beat():
        second = 10**9
        while not beats.wait(0.3):
            second += 1
            os.utime(folder / ".begun.json", (second, second))

    thread = threading.Thread(target=beat)
    thread.start()
    text = r"works on it: process \d+ on node-7, Ray job raysubmit_1, since"
    with pytest.raises(FolderInUseError, match=text):
        begun.own(folder)
    beats.set()
    thread.join()
    begun.own(folder)
    assert ownership.holds(folder)


def test_an_owner_elsewhere_that_ends_while_it_is_watched_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "LEASE_S", 20.0)
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    as_if_elsewhere(folder)
    forget(folder)
    timer = threading.Timer(1.0, (folder / ".begun.json").unlink)
    timer.start()
    started = time.monotonic()
    begun.own(folder)
    assert time.monotonic() - started < 10


def test_the_owner_touches_its_mark(tmp_path, monkeypatch):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    mark = marks.read_mark(folder)
    os.utime(folder / ".begun.json", (1, 1))
    ownership._beat(folder.absolute(), mark)
    assert (folder / ".begun.json").stat().st_mtime > 10**9


def test_of_many_starts_at_once_exactly_one_wins(tmp_path):
    for number, before in enumerate(("nothing", "given back", "dead")):
        folder = tmp_path / str(number)
        if before == "given back":
            begun.start_folder(folder, fresh=False)
            ownership.give_back(folder)
        if before == "dead":
            ended(working(folder), signal.SIGKILL)
        script = (
            "import sys,time;from pathlib import Path;from glotok_ray import ownership\n"
            "print('up', flush=True);sys.stdin.readline()\n"
            "print(ownership.claim(Path(sys.argv[1])) is None, flush=True);sys.stdin.readline()"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(folder)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdout.readline() == "up\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in processes]
        for process in processes:
            process.communicate("end\n")
        assert sorted(answers) == ["False"] * 5 + ["True"], before
        assert {path.name for path in folder.iterdir()} <= {".begun.json", "half"}


def test_a_takeover_that_was_killed_halfway_is_taken_over(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    ownership.give_back(folder)
    first = marks.read_mark(folder)
    content = json.loads((folder / ".begun.json").read_text())
    owner = {
        "host": "h",
        "machine": ownership._machine(),
        "pid": 2**22 + 1,
        "process_start": "5",
        "ray_job": "",
        "since": "s",
    }
    successor = folder / f".begun.{first.token}.json"
    successor.write_text(json.dumps(content | {"token": "second", "owner": owner}))
    assert marks.read_mark(folder).token == "second"
    begun.own(folder)
    assert [path.name for path in folder.iterdir()] == [".begun.json"]


def test_a_mark_without_hard_links_is_made_exclusively_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    ownership.give_back(folder)
    begun.own(folder)
    assert [path.name for path in folder.iterdir()] == [".begun.json"]


def test_marks_of_earlier_versions_and_halves_of_marks_have_no_owner(tmp_path):
    for number, content in enumerate(("{}\n", "", '{"token": "a", "ow')):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / ".begun.json").write_text(content)
        (folder / "half").touch()
        assert begun.start_folder(folder, fresh=False)
        assert [path.name for path in folder.iterdir()] == [".begun.json"]


def test_who_lost_a_folder_ends_and_writes_no_manifest(tmp_path):
    @ownership.holding()
    def work():
        folder = begun.start_folder(tmp_path / "thing", fresh=False)
        mark = marks.read_mark(folder)
        as_if_elsewhere(folder)  # another owner, which saw no beat
        changed = (folder / ".begun.json").read_text().replace(mark.token, "theirs")
        (folder / ".begun.json").write_text(changed)
        threading.Thread(target=ownership._beat, args=(folder.absolute(), mark)).start()
        time.sleep(5)

    with pytest.raises(FolderLostError, match=r"thing: taken over by process \d+ on node-7"):
        work()
    assert marks.read_mark(tmp_path / "thing").token == "theirs"


def test_the_same_process_may_go_on(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    begun.go_on(folder, "a")
    begun.check_free(tmp_path)
    begun.start_folder(folder, fresh=True)
    assert ownership.holds(folder)


def test_a_finished_folder_loses_the_mark_that_a_killed_job_left_in_it(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    content = (folder / ".begun.json").read_bytes()
    artefact.write_manifest(folder, "thing", "f")
    (folder / ".begun.json").write_bytes(content)
    assert artefact.finished(folder, "thing", "f")
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_fresh_gives_the_old_folder_away_without_a_mark(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    artefact.write_manifest(folder, "thing", "f")
    begun.start_folder(folder, fresh=True)
    previous = tmp_path / "thing.previous"
    assert [path.name for path in previous.iterdir()] == ["manifest.json"]
    assert ownership.holds(folder)


def test_work_for_another_question_is_refused_and_kept(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False, question="one")
    (folder / "half").touch()
    begun.start_folder(folder, fresh=False, question="one")
    for attempt in (
        lambda: begun.start_folder(folder, fresh=False, question="two"),
        lambda: begun.go_on(folder, "two"),
    ):
        with pytest.raises(artefact.ArtefactError, match="unfinished work of other settings"):
            attempt()
    assert (folder / "half").is_file()
    begun.start_folder(folder, fresh=True, question="two")
    assert not (folder / "half").exists()


def test_who_comes_too_late_does_not_win(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    before = marks.read_mark(folder)
    ownership.give_back(folder)
    now = marks.read_mark(folder)
    assert not marks.succeed(folder, before, marks.Mark(token="late"))
    assert not marks.succeed(folder, None, marks.Mark(token="late"))
    assert marks.read_mark(folder) == now
    assert [path.name for path in folder.iterdir()] == [".begun.json"]


def test_a_folder_that_is_moved_away_while_it_is_claimed_is_not_won(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "thing"
    link = os.link

    def late_link(draft, path):
        folder.rename(tmp_path / "moved")
        link(draft, path)

    monkeypatch.setattr(os, "link", late_link)
    assert not marks.succeed(folder, None, marks.Mark(token="late"))
    assert not folder.exists()


def run_script(script, folder):
    """What a process that has `folder` as its argument prints."""
    head = "import os,sys;from pathlib import Path;from glotok_ray import begun,marks,ownership\n"
    head += "folder = begun.start_folder(Path(sys.argv[1]), fresh=False)\n"
    command = [sys.executable, "-c", head + script, str(folder)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_a_process_that_ends_without_a_word_gives_its_folders_back(tmp_path):
    assert run_script("print(ownership.holds(folder))", tmp_path / "thing") == "True\n"
    assert marks.read_mark(tmp_path / "thing").owner is None


def test_a_forked_child_holds_nothing_and_gives_nothing_back(tmp_path):
    script = (
        "if not os.fork():\n"
        "    print(ownership.live_owner(folder).pid == os.getppid(), flush=True)\n"
        "    print(ownership.claim(folder).pid == os.getppid(), flush=True)\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "print(marks.read_mark(folder).owner.pid == os.getpid())"
    )
    assert run_script(script, tmp_path / "thing") == "True\nTrue\nTrue\n"
