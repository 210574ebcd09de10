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

from glotok_ray.storage import artefact, begun, marks, owners, ownership
from glotok_ray.storage.begun import FolderInUseError
from glotok_ray.storage.ownership import FolderLostError
from jobs.failures import BAD_INPUT, TERMINATED, guarded

ROOT = Path(__file__).parents[2]
WORKER = """
import sys, time
from pathlib import Path
from glotok_ray.storage import begun, ownership
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


def hear_ctrl_c():
    """As in a terminal, also where these tests run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def working(folder, how="long"):
    """Another process that owns `folder`."""
    command = [sys.executable, "-c", WORKER, str(folder), how]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
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


def taken_over(folder):
    """Another owner's mark, as a job leaves it that saw no beat; the mark before it."""
    mark = marks.read_mark(folder)
    as_if_elsewhere(folder)
    theirs = (folder / ".begun.json").read_text().replace(mark.token, "theirs")
    (folder / ".begun.json").write_text(theirs)
    return mark


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
        lambda: begun.go_on(folder, "fingerprint"),
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
    monkeypatch.setattr(owners, "LEASE_S", 2.0)
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
    monkeypatch.setattr(owners, "LEASE_S", 20.0)
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
            "import sys,time;from pathlib import Path;from glotok_ray.storage import ownership\n"
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
        "machine": owners.machine(),
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
        mark = taken_over(folder)
        threading.Thread(target=ownership._beat, args=(folder.absolute(), mark)).start()
        time.sleep(5)

    with pytest.raises(FolderLostError, match=r"thing: taken over by process \d+ on node-7"):
        work()
    assert marks.read_mark(tmp_path / "thing").token == "theirs"


@pytest.mark.parametrize(
    "before",
    [
        "",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",  # in all that Ray starts
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",  # a job in the background
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(0))",  # Ray Train
        "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))",  # a driver of Ray
    ],
)
def test_who_lost_a_folder_ends_in_one_line_whatever_becomes_of_sigint(tmp_path, before):
    script = (
        f"import signal\nfrom glotok_ray.storage import ownership\nownership.BEAT_S = 0.2\n{before}\n"
        + WORKER.replace('guarded("work", work)', 'guarded("work", work, [Path(sys.argv[1])])')
    )
    folder = tmp_path / "thing"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), "long"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "works\n"
    taken_over(folder)
    try:
        told = process.communicate(timeout=20)[1].splitlines()
    finally:
        process.kill()
    assert process.returncode == 1
    assert told[-1].startswith(f"work: {folder}: taken over by process {process.pid} on node-7")
    assert not any("SIGTERM" in line or "Traceback" in line for line in told)
    assert {path.name for path in folder.iterdir()} == {".begun.json", "half"}
    assert marks.read_mark(folder).token == "theirs"


def test_who_wakes_after_a_takeover_finds_it_before_the_next_beat(tmp_path):
    for number, attempt in enumerate(
        (
            ownership.check_held,
            lambda folder: ownership.check_held(),
            lambda folder: artefact.write_manifest(folder, "thing"),
            ownership.finish,
            lambda folder: ownership.ask(folder, "fingerprint"),
            lambda folder: begun.go_on(folder, "fingerprint"),
            lambda folder: begun.start_folder(folder, fresh=True),
            begun.set_aside,
        )
    ):
        folder = tmp_path / str(number)

        def work(folder=folder, attempt=attempt):
            with ownership.holding():
                begun.start_folder(folder, fresh=False)
                taken_over(folder)
                marks.succeed(folder, marks.read_mark(folder), marks.Mark(token="free"))
                (folder / "theirs").touch()
                attempt(folder)

        with pytest.raises(FolderLostError, match="taken over by another job, as"):
            work()
        assert sorted(path.name for path in folder.iterdir()) == [".begun.json", "theirs"]
        assert marks.read_mark(folder).token == "free"
        ownership._lost.clear()


def test_a_folder_that_is_finished_by_another_job_is_lost(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    (folder / "manifest.json").write_text("{}")
    (folder / ".begun.json").unlink()
    with pytest.raises(FolderLostError, match="taken over by another job, which has ended"):
        artefact.write_manifest(folder, "thing")
    assert (folder / "manifest.json").read_text() == "{}"


def test_what_a_job_meets_in_a_folder_that_it_lost_is_told_as_the_loss(tmp_path):
    def work():
        with ownership.holding():
            folder = begun.start_folder(tmp_path / "thing", fresh=False)
            taken_over(folder)
            (folder / "half").read_text()

    with pytest.raises(FolderLostError, match="taken over"):
        work()


def test_storage_that_is_away_loses_no_folder(tmp_path):
    folder = begun.start_folder(tmp_path / "runs" / "thing", fresh=False)
    mark = marks.read_mark(folder)
    (tmp_path / "runs").rename(tmp_path / "away")
    ownership._beat(folder.absolute(), mark)
    ownership.check_held()
    (tmp_path / "away").rename(tmp_path / "runs")
    ownership._beat(folder.absolute(), mark)
    artefact.write_manifest(folder, "thing")
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_a_folder_that_this_process_sets_aside_is_not_lost_while_it_is_moved(tmp_path, monkeypatch):
    folder = begun.start_folder(tmp_path / "thing", fresh=False).absolute()
    mark = marks.read_mark(folder)
    rename, beats = Path.rename, []

    def slow_rename(path, place):
        rename(path, place)
        path.mkdir()  # the next owner
        (path / ".begun.json").write_text("{}")
        beats.append(threading.Thread(target=ownership._beat, args=(folder, mark)))
        beats[0].start()
        time.sleep(0.3)

    monkeypatch.setattr(Path, "rename", slow_rename)
    begun.set_aside(folder)
    beats[0].join()
    ownership.check_held(folder)
    assert not ownership.holds(folder)
    assert marks.read_mark(tmp_path / "thing.previous").owner is None


def test_the_same_process_may_go_on(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    begun.go_on(folder, "a")
    begun.check_free(tmp_path)
    begun.start_folder(folder, fresh=True)
    assert ownership.holds(folder)


def test_a_finished_folder_loses_the_mark_that_a_killed_job_left_in_it(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    content = (folder / ".begun.json").read_bytes()
    (folder / "result").write_text("r")
    artefact.write_manifest(folder, "thing", "f")
    (folder / ".begun.json").write_bytes(content)
    assert artefact.finished(folder, "thing", "f")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "result"]


def test_fresh_gives_the_old_folder_away_without_a_mark(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False)
    artefact.write_manifest(folder, "thing", "f")
    begun.start_folder(folder, fresh=True)
    previous = tmp_path / "thing.previous"
    assert [path.name for path in previous.iterdir()] == ["manifest.json"]
    assert ownership.holds(folder)


def test_work_for_another_question_is_refused_and_kept(tmp_path):
    folder = begun.start_folder(tmp_path / "thing", fresh=False, fingerprint="one")
    (folder / "half").touch()
    begun.start_folder(folder, fresh=False, fingerprint="one")
    for attempt in (
        lambda: begun.start_folder(folder, fresh=False, fingerprint="two"),
        lambda: begun.go_on(folder, "two"),
    ):
        with pytest.raises(artefact.ArtefactError, match="unfinished work of other settings"):
            attempt()
    assert (folder / "half").is_file()
    begun.start_folder(folder, fresh=True, fingerprint="two")
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
    head = "import os,sys;from pathlib import Path;from glotok_ray.storage import begun,marks,ownership\n"
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


def test_unreadable_marks_after_unreadable_marks_come_to_an_end(tmp_path):
    script = (
        "import sys;from pathlib import Path;from glotok_ray.storage import begun,marks\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(3):\n"
        "    (folder / f'.begun.{marks.read_mark(folder).token}.json').touch()\n"
        "    print(marks.read_mark(folder).owner)\n"
        "print(begun.start_folder(folder, fresh=False).name)"
    )
    for content in (b"", b"{}"):
        folder = tmp_path / f"thing{len(content)}"
        folder.mkdir()
        for name in (".begun.json", ".begun.unknown.json"):
            (folder / name).write_bytes(content)
        command = [sys.executable, "-c", script, str(folder)]
        done = subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
        )
        assert done.stdout == f"None\nNone\nNone\n{folder.name}\n"
        assert [path.name for path in folder.iterdir()] == [".begun.json"]


def test_who_comes_too_late_without_hard_links_leaves_the_winners_mark(tmp_path, monkeypatch):
    folder = tmp_path / "thing"
    winner = marks.Mark(token="winner", fingerprint="theirs")

    def slow_link(draft, path):
        # The file that was made exclusively was found empty, and taken over, before its content came.
        path.write_text(json.dumps({"token": "winner", "fingerprint": "theirs", "owner": None}))
        return True

    monkeypatch.setattr(marks, "_link", slow_link)
    assert not marks.succeed(folder, None, marks.Mark(token="late"))
    assert marks.read_mark(folder) == winner


def test_a_process_that_proc_hides_lives_as_long_as_its_id_is_in_use(tmp_path, monkeypatch):
    process = working(tmp_path / "thing")
    monkeypatch.setattr(owners, "_PROCESSES", tmp_path / "hidden")
    assert ownership.live_owner(tmp_path / "thing").pid == process.pid

    def not_ours(pid, number):
        raise PermissionError(errno.EPERM, "not ours")

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", not_ours)
        assert ownership.live_owner(tmp_path / "thing").pid == process.pid
    ended(process, signal.SIGKILL)
    assert ownership.live_owner(tmp_path / "thing") is None


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place, named in (
        (tmp_path / "file", r"file: is no folder; choose"),
        (tmp_path / "link", r"link: is no folder; choose"),
        (
            tmp_path / "file" / "below",
            r"file: is no folder, so that \S+below cannot be made; choose",
        ),
    ):
        for attempt in (
            lambda place=place: begun.go_on(place, "fingerprint"),
            lambda place=place: begun.set_aside(place),
            lambda place=place: begun.own(place),
            lambda place=place: begun.start_folder(place, fresh=True),
            lambda place=place: begun.check_startable(place, fresh=False),
        ):
            with pytest.raises(artefact.ArtefactError, match=named):
                attempt()
    assert (tmp_path / "file").read_text() == "mine"
