"""The drill of source forms: what it expects is what sharding makes of every form, without Ray."""

from pathlib import Path

import pytest

from benchmarks import source_forms
from benchmarks.five_forms import write_five_forms
from benchmarks.sharding_driver import driver_case
from glotok_ray.config import ShardRun
from glotok_ray.data.sources import ImageSource
from jobs import shard_images


def test_every_form_holds_the_images_that_the_drill_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_forms, "CLASSES", 4)
    training, validation = source_forms.generated(16)
    assert sum(map(len, training.values())) == 12
    wanted = source_forms.wanted_images(training, validation)
    forms = write_five_forms(tmp_path / "sources", training, validation, per_archive=5)
    assert tuple(forms) == source_forms.FORMS
    for fields in forms.values():
        source = ImageSource.of(ShardRun(**fields, image_size=0, upright=False))
        found = {
            row.key: (source.classes[row.label], row.encode(source.run).encoded)
            for rows in source.rows().values()
            for row in rows
        }
        assert found == wanted


def test_its_commands_are_those_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(source_forms, "CLASSES", 4)
    images = source_forms.generated(16)
    forms = write_five_forms(tmp_path / "sources", *images, per_archive=5)
    for fields in forms.values():
        command = source_forms.job(fields, tmp_path / "out")
        assert command[1:3] == ["-m", "jobs.shard_images"]
        assert shard_images.main([*command[3:], "--dry-run"]) == 0
    assert '"train": 12' in capsys.readouterr().out


def test_shards_that_differ_end_the_drill() -> None:
    with pytest.raises(SystemExit, match="source_forms: tars: its shards differ"):
        source_forms.check(False, "tars: its shards differ")


def test_a_made_up_driver_does_what_the_job_s_does() -> None:
    run, facts = driver_case(2000)
    assert set(run()) == {"listed", "cut", "packed", "finished"}
    assert facts()["tasks_mib"] > facts()["largest_task_mib"] > 0


def test_a_drill_that_was_killed_goes_on_behind_what_it_finished(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    source_forms.Progress(path, {"images": 200}).note("tars", {"seconds": 1.5})
    assert source_forms.Progress(path, {"images": 200}).figures == {"tars": {"seconds": 1.5}}
    with pytest.raises(SystemExit, match=r"is of a drill of .*200.*; give another folder"):
        source_forms.Progress(path, {"images": 300})
    made: list[Path] = []

    def make(path: Path) -> int:
        made.append(path)
        path.mkdir()
        if len(made) == 1:
            raise KeyboardInterrupt
        return len(made)

    with pytest.raises(KeyboardInterrupt):
        source_forms.once(tmp_path / "sources", make)
    assert [source_forms.once(tmp_path / "sources", make) for _ in range(2)] == [2, 2]
    assert len(made) == 2
