"""Finished folders: recognised, verified, never overwritten unasked."""

import pytest

from glotok_ray import artefact
from glotok_ray.artefact import ArtefactError


@pytest.fixture
def folder(tmp_path):
    made = artefact.start_folder(tmp_path / "thing", fresh=False)
    (made / "a.txt").write_text("one")
    (made / "part").mkdir()
    (made / "part" / "b.txt").write_text("two")
    artefact.write_manifest(made, "thing", "f1", note=3)
    return made


def test_a_finished_folder_is_recognised(folder):
    manifest = artefact.finished(folder, "thing", "f1")
    assert manifest["note"] == 3
    assert set(manifest["files"]) == {"a.txt", "part/b.txt"}
    assert artefact.finished(folder.parent / "other", "thing", "f1") is None


def test_other_settings_are_refused_with_the_remedy(folder):
    with pytest.raises(ArtefactError, match=r"made by other settings.*--fresh"):
        artefact.finished(folder, "thing", "f2")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named(folder, damage):
    path = folder / "part" / "b.txt"
    if damage == "remove":
        path.unlink()
    else:
        path.write_text("twO" if damage == "flip" else "t")
    with pytest.raises(ArtefactError, match=r"b\.txt: (differs|listed)"):
        artefact.read_manifest(folder, "thing")


def test_another_kind_is_refused(folder):
    with pytest.raises(ArtefactError, match="holds a 'thing', not a 'codes'"):
        artefact.read_manifest(folder, "codes")


def test_fresh_keeps_the_old_folder(folder):
    artefact.start_folder(folder, fresh=True)
    assert not any(folder.iterdir())
    assert (folder.with_name("thing.previous") / "a.txt").read_text() == "one"


def test_a_finished_folder_is_not_started_over_unasked(folder):
    with pytest.raises(ArtefactError, match="already finished"):
        artefact.start_folder(folder, fresh=False)


def test_unfinished_remains_are_removed(tmp_path):
    folder = tmp_path / "thing"
    folder.mkdir()
    (folder / "half").write_text("x")
    assert not any(artefact.start_folder(folder, fresh=False).iterdir())


def test_the_fingerprint_follows_config_and_inputs(folder):
    first = artefact.fingerprint("k", {"a": 1}, [folder])
    assert first == artefact.fingerprint("k", {"a": 1}, [folder])
    assert first != artefact.fingerprint("k", {"a": 2}, [folder])
    (folder / "a.txt").write_text("three")
    artefact.write_manifest(folder, "thing", "f1")
    assert first != artefact.fingerprint("k", {"a": 1}, [folder])


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"x\.json: not valid JSON"):
        artefact.read_json(tmp_path / "x.json")
