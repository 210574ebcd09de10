"""The protocol of output folders: looked at, begun or gone on with, finished; and what each of it refuses."""

import pytest

from glotok_ray.storage import artefact, begun, contents, marks, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.begun import FolderInUseError
from glotok_ray.storage.contents import Collection
from glotok_ray.storage.object_paths import ObjectPath
from glotok_ray.storage.output import (
    Unfinished,
    begin,
    check_apart,
    collection,
    look,
    look_at_all,
)

ONE, TWO = {"seed": 1}, {"seed": 2}
PARTS = Collection(
    files=("log.txt", "config.json", "report.html"),
    first="part",
    settled="config.json",
    last="report.html",
)


@pytest.fixture(autouse=True)
def nothing_held():
    with ownership.holding():
        yield


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "thing"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def half(folder, settings, unfinished):
    """What a job of these settings leaves that is stopped half-way."""
    look(folder, "thing", settings).begin(unfinished)
    (folder / "half").touch()
    ownership.give_back(folder)


def test_a_look_touches_nothing_and_a_finished_folder_is_recognised(folder):
    output = look(folder, "thing", ONE)
    assert output.finished is None
    assert not folder.exists()
    output.begin(Unfinished.REPLACE)
    (folder / "a").write_text("a")
    manifest = output.finish(note=3)
    assert names(folder) == ["a", "manifest.json"]
    assert (manifest["kind"], manifest["note"], manifest["fingerprint"]) == (
        "thing",
        3,
        artefact.fingerprint("thing", ONE),
    )
    assert look(folder, "thing", ONE).finished == manifest
    with pytest.raises(ArtefactError, match=r"made by other settings or inputs; .*--fresh"):
        look(folder, "thing", TWO)
    with pytest.raises(ArtefactError, match=r"holds a finished 'thing', .*writes 'codes'.*--fresh"):
        look(folder, "codes", ONE)


def test_fresh_keeps_the_finished_folder_beside_the_new_one_once_that_is_begun(folder):
    look(folder, "thing", ONE).begin(Unfinished.REPLACE)
    look(folder, "thing", ONE).finish()
    again = look(folder, "thing", TWO, fresh=True)
    assert again.finished is None
    assert names(folder) == ["manifest.json"]
    again.begin(Unfinished.REPLACE)
    assert names(folder.with_name("thing.previous")) == ["manifest.json"]


@pytest.mark.parametrize(
    ("unfinished", "same", "other"),
    [
        (Unfinished.REPLACE, False, False),
        (Unfinished.KEEP, True, True),
        (Unfinished.SAME_ONLY, True, None),
        (Unfinished.SAME_OR_REPLACE, True, False),
    ],
)
def test_what_an_unfinished_job_left_is_kept_removed_or_refused(folder, unfinished, same, other):
    half(folder, ONE, unfinished)
    look(folder, "thing", ONE).begin(unfinished)
    assert (folder / "half").exists() == same
    (folder / "half").touch()
    if other is None:
        with pytest.raises(ArtefactError, match="unfinished work of other settings"):
            look(folder, "thing", TWO).begin(unfinished)
    else:
        look(folder, "thing", TWO).begin(unfinished)
    assert (folder / "half").exists() == (other is not False)
    look(folder, "thing", TWO, fresh=True).begin(unfinished)
    assert not (folder / "half").exists()


def test_a_finished_folder_is_gone_on_with_and_stays_finished_until_it_is_reopened(folder):
    (look(folder, "thing", ONE).go_on() / "weights").write_text("w")
    look(folder, "thing", ONE).finish(step=5)
    output = look(folder, "thing", ONE)
    output.go_on()
    assert artefact.is_finished(folder)
    assert marks.read_mark(folder).fingerprint == output.fingerprint
    output.reopen()
    assert names(folder) == [".begun.json", "weights"]
    assert output.finish(step=9)["step"] == 9
    assert names(folder) == ["manifest.json", "weights"]


def test_what_another_job_has_finished_since_the_look_is_left_alone(folder):
    late, first = look(folder, "thing", ONE), look(folder, "thing", ONE)
    first.go_on()
    (folder / "a").write_text("first")
    first.finish(step=5)
    with pytest.raises(FolderInUseError, match=r"thing: another job has worked there just now;"):
        late.go_on()
    assert names(folder) == ["a", "manifest.json"]
    assert not ownership.holds(folder)
    # It goes on with what another job finishes again, or has reopened and left.
    for left in (False, True):
        late, first = look(folder, "thing", ONE), look(folder, "thing", ONE)
        first.go_on()
        first.reopen()
        if left:
            ownership.give_back(folder)
        else:
            first.finish(step=9)
        with pytest.raises(FolderInUseError, match="start the same command again"):
            late.go_on()
        assert not ownership.holds(folder)
    assert marks.read_mark(folder).fingerprint == late.fingerprint
    again = look(folder, "thing", ONE)
    again.go_on()
    assert names(folder) == [".begun.json", "a"]


def test_unfinished_work_goes_on_under_the_settings_that_bind_it(folder):
    def looked(**others):
        return look(folder, "thing", {**ONE, **others}, begun_settings=ONE)

    looked(trials=3).go_on()
    looked(trials=4).go_on()
    with pytest.raises(ArtefactError, match="unfinished work of other settings"):
        look(folder, "thing", TWO, begun_settings=TWO).go_on()
    (folder / "rows").write_text("r")
    looked(trials=4).finish()
    with pytest.raises(ArtefactError, match="made by other settings"):
        looked(trials=3)


def test_fresh_keeps_the_unfinished_work_of_a_job_that_goes_on(folder):
    half(folder, ONE, Unfinished.SAME_ONLY)
    look(folder, "thing", TWO, fresh=True).go_on()
    assert names(folder) == [".begun.json"]
    assert (folder.with_name("thing.previous") / "half").exists()


@pytest.fixture
def finished_previous(folder):
    """Unfinished work of `folder` beside a finished NAME.previous."""
    look(folder, "thing", ONE).begin(Unfinished.REPLACE)
    (folder / "weights").touch()
    look(folder, "thing", ONE).finish()
    look(folder, "thing", TWO, fresh=True).go_on()
    (folder / "half").touch()
    ownership.give_back(folder)
    return folder.with_name("thing.previous")


def test_fresh_again_after_a_failure_keeps_the_finished_work_of_before(folder, finished_previous):
    for settings in (TWO, ONE):
        look(folder, "thing", settings, fresh=True).go_on()
        assert names(folder) == [".begun.json"]
        assert ownership.holds(folder)
        assert names(finished_previous) == ["manifest.json", "weights"]
        (folder / "half").touch()
        ownership.give_back(folder)
    look(folder, "thing", ONE).go_on()
    look(folder, "thing", ONE).finish()
    look(folder, "thing", TWO, fresh=True).go_on()  # finished work takes its place
    assert names(finished_previous) == ["half", "manifest.json"]


def test_remains_that_a_kill_left_are_no_work_to_go_on_with(folder, finished_previous, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(begun, "_empty", killed)
        with pytest.raises(KeyboardInterrupt):
            look(folder, "thing", TWO, fresh=True).go_on()
    assert names(folder) == [".begun.json", "half"]
    with pytest.raises(ArtefactError, match=r"unfinished work of other settings.*--fresh"):
        look(folder, "thing", TWO).go_on()
    look(folder, "thing", TWO, fresh=True).go_on()
    assert names(folder) == [".begun.json"]


def killed(folder):
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
@pytest.mark.parametrize("how", ["go_on", "begin", "check_startable"])
def test_fresh_removes_no_previous_folder_that_no_job_left(folder, how, kind):
    look(folder, "thing", ONE).begin(Unfinished.REPLACE)
    look(folder, "thing", ONE).finish()
    previous = folder.with_name("thing.previous")
    if kind == "folder":
        previous.mkdir()
        (previous / "thesis.txt").write_text("years")
    elif kind == "file":
        previous.write_text("years")
    else:
        previous.symlink_to(folder)
    again = look(folder, "thing", TWO, fresh=True)
    call = {
        "go_on": again.go_on,
        "begin": lambda: again.begin(Unfinished.REPLACE),
        "check_startable": again.check_startable,
    }[how]
    with pytest.raises(ArtefactError, match=r"^\S+thing\.previous: is no folder .*; move it away"):
        call()
    assert names(folder) == ["manifest.json"]
    kept = {"folder": previous / "thesis.txt", "file": previous, "link": previous / "manifest.json"}
    assert kept[kind].is_file()


def test_fresh_takes_the_unmarked_runs_of_older_versions(folder):
    folder.mkdir()
    artefact.write_json(folder / "run.json", {"fingerprint": "of before"})
    look(folder, "thing", ONE, fresh=True).go_on()
    assert names(folder.with_name("thing.previous")) == [".begun.json", "run.json"]


def test_files_that_no_job_began_are_gone_on_with_by_who_asks_for_it_alone(folder):
    folder.mkdir()
    look(folder, "thing", ONE).go_on()  # an empty folder is free to take
    (folder / ".begun.json").unlink()
    (folder / "thesis.txt").touch()
    ownership._held.clear()
    for adopt in ("", "rows"):
        with pytest.raises(ArtefactError, match=r"holds files and no \.begun\.json, .*empty it"):
            look(folder, "thing", ONE).go_on(adopt=adopt)
    (folder / "rows").mkdir()
    with pytest.raises(ArtefactError, match=r"holds files and no \.begun\.json"):
        look(folder, "thing", ONE).go_on()
    for adopt in ("", "rows"):
        with pytest.raises(ArtefactError, match="thing: holds files that no job of this package"):
            look(folder, "thing", ONE, fresh=True).go_on(adopt=adopt)
    assert names(folder) == ["rows", "thesis.txt"]
    assert not folder.with_name("thing.previous").exists()
    look(folder, "thing", ONE).go_on(adopt="rows")
    assert names(folder) == [".begun.json", "rows", "thesis.txt"]


def test_an_input_is_looked_at_before_the_folder_is_begun(tmp_path, folder):
    given = {"settings": ONE, "fresh": False, "unfinished": Unfinished.REPLACE}
    with pytest.raises(ArtefactError, match=r"absent: holds no manifest\.json"):
        begin(str(folder), "thing", inputs=[str(tmp_path / "absent")], **given)
    data = look(tmp_path / "data", "shards", ONE).begin(Unfinished.REPLACE)
    (data / "part").write_text("long")
    (data / "dataset.json").write_text("{}")
    look(data, "shards", ONE).finish()
    (data / "part").write_text("short")
    with pytest.raises(ArtefactError, match="part: differs from its sha256"):
        begin(str(folder), "thing", inputs=[str(data)], **given)
    assert not folder.exists()
    (data / "part").write_text("long")
    output = begin(str(folder), "thing", inputs=[str(data)], **given)
    assert output.fingerprint == artefact.fingerprint("thing", ONE, [data])
    (folder / "result").write_text("r")
    output.finish()
    assert begin(str(folder), "thing", inputs=[str(data)], **given).finished is not None


def test_folders_of_one_job_are_finished_together_or_not_at_all(tmp_path):
    folders = [tmp_path / name for name in ("train", "validation")]
    outputs = look_at_all(folders, "shards", ONE)
    assert [output.finished for output in outputs] == [None, None]
    for output in outputs:
        (output.begin(Unfinished.REPLACE) / "dataset.json").write_text("{}")
    outputs[0].finish()
    ownership.give_back(folders[1])  # killed in between
    again = look_at_all(folders, "shards", ONE)
    assert [output.finished for output in again] == [None, None]
    assert names(folders[0]) == [".begun.json", "dataset.json"]
    for output in again:
        output.check_startable()
        (output.begin(Unfinished.REPLACE) / "dataset.json").write_text("{}")
        output.finish()
    assert all(output.finished for output in look_at_all(folders, "shards", ONE))
    fresh = look_at_all(folders, "shards", TWO, fresh=True)
    assert [output.finished for output in fresh] == [None, None]
    assert names(folders[0]) == ["dataset.json", "manifest.json"]


def test_a_collection_is_begun_as_long_as_its_parts_are_made(folder):
    def make(*, fails):
        with collection(folder, PARTS, fresh=False):
            (folder / "part").mkdir(exist_ok=True)
            assert ownership.holds(folder)
            if fails:
                raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        make(fails=True)
    assert marks.read_mark(folder) is not None
    make(fails=False)
    assert names(folder) == ["part"]
    with collection(folder, PARTS, fresh=True):
        assert names(folder) == [".begun.json"]
    assert (folder.with_name("thing.previous") / "part").is_dir()


def collected(folder, *done):
    """A collection whose job ends behind the last of these."""
    with collection(folder, PARTS, fresh=False):
        for name in done:
            if "." in name:
                (folder / name).touch()
            else:
                finished(folder / name)
        if "report.html" not in done:
            ownership.give_back(folder)
            return
    (folder / "log.txt").touch()


def finished(folder):
    look(folder, "thing", ONE).begin(Unfinished.REPLACE)
    look(folder, "thing", ONE).finish()


def fail(folder):
    with ownership.holding(), collection(folder, PARTS, fresh=True):
        assert names(folder) == [".begun.json"]
        (folder / "log.txt").touch()
        raise ValueError("no")


def test_fresh_twice_keeps_a_finished_collection(folder):
    collected(folder, "part", "config.json", "other", "report.html")
    previous = folder.with_name("thing.previous")
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            fail(folder)
        assert names(folder) == [".begun.json", "log.txt"]
        assert {"part", "other", "report.html"} <= set(names(previous))
    collected(folder, "part", "config.json", "report.html")
    with collection(folder, PARTS, fresh=True):
        pass
    assert "other" not in names(previous)


def foreign_file(folder):
    (folder / "thesis.tex").write_text("years")


def foreign_folder(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").touch()


def link(folder):
    (folder / "photos").symlink_to(folder / "part")


def other_collection(folder):
    (folder / "quick").mkdir()
    collected(folder / "quick", "part", "config.json", "report.html")


@pytest.mark.parametrize("add", [foreign_file, foreign_folder, link, other_collection])
@pytest.mark.parametrize("place", ["thing", "thing.previous"])
def test_fresh_moves_no_collection_with_anything_that_is_not_its_own(folder, add, place):
    for each in (folder, folder.with_name("thing.previous")):
        collected(each, "part", "config.json", "report.html")
    add(folder.with_name(place))
    text = "no job of this package began it" if place == "thing" else "is no folder that a job"
    before = [sorted(folder.parent.rglob("*"))]
    with (
        pytest.raises(ArtefactError, match=rf"^\S+: {text}.*--fresh.*; .*move it away yourself"),
        collection(folder, PARTS, fresh=True),
    ):
        pass
    assert [sorted(folder.parent.rglob("*"))] == before


def test_fresh_moves_what_desktops_write_into_each_folder_that_is_looked_into(folder):
    collected(folder, "part", "config.json", "report.html")
    finished(folder / "splits" / "train")
    for place in (folder, folder / "splits"):
        (place / ".DS_Store").touch()
    with collection(folder, PARTS, fresh=True):
        assert names(folder) == [".begun.json"]
    assert ".DS_Store" in names(folder.with_name("thing.previous"))


def test_fresh_moves_no_folder_of_runs_that_a_collection_was_begun_in_by_mistake(folder):
    finished(folder / "first")
    collected(folder, "log.txt")
    with (
        pytest.raises(ArtefactError, match=r"first: no job of .* move it away with \S+thing;"),
        collection(folder, PARTS, fresh=True),
    ):
        pass
    assert names(folder / "first") == ["manifest.json"]


def test_a_collection_that_was_being_emptied_is_emptied_to_the_end(folder):
    collected(folder, "part", "config.json", "report.html")
    with collection(folder, PARTS, fresh=True):
        pass
    for fresh in (False, True):
        (folder / "part").mkdir(exist_ok=True)
        (folder / "part" / "remains").touch()
        mark_as_being_emptied(folder)
        with collection(folder, PARTS, fresh=fresh):
            assert names(folder) == [".begun.json"]
            assert marks.read_mark(folder).fingerprint == ""
    assert "report.html" in names(folder.with_name("thing.previous"))


def mark_as_being_emptied(folder):
    begun.own(folder)
    ownership.ask(folder, contents.BEING_EMPTIED)
    ownership.give_back(folder)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("place", ["thing", ".", "link"])
def test_no_job_writes_over_its_input_or_around_it(tmp_path, folder, place, fresh):
    look(folder, "thing", ONE).begin(Unfinished.REPLACE)
    look(folder, "thing", ONE).finish()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ArtefactError, match=r"(is|holds) the input \S+thing, .*choose another"):
        look(tmp_path / place, "thing", TWO, [folder], fresh=fresh)
    assert look(tmp_path / "other", "thing", TWO, [folder], fresh=fresh).finished is None
    assert look(folder / "inside", "thing", TWO, [folder], fresh=fresh).finished is None


def test_fresh_removes_no_previous_folder_that_is_read(folder, finished_previous):
    given = (folder, "thing", TWO, [finished_previous])
    assert look(*given, fresh=True).finished is None  # unfinished work does not take its place
    look(folder, "thing", TWO).go_on()
    look(folder, "thing", TWO).finish()
    with pytest.raises(ArtefactError, match=r"lies in \S+\.previous, which --fresh would remove"):
        look(*given, fresh=True)


def test_objects_are_kept_apart_by_their_addresses():
    run = ObjectPath("s3://bucket/runs/first")
    for place, outside in (("runs/first", False), ("runs", False), ("runs/first/out", True)):
        with pytest.raises(ArtefactError, match=r"the input s3://bucket/runs/first, which"):
            check_apart(ObjectPath(f"s3://bucket/{place}"), [run], outside=outside)
    check_apart(ObjectPath("s3://bucket/runs/first_exported"), [run], outside=True)
    check_apart(ObjectPath("s3://bucket/runs/first/out"), [run])
