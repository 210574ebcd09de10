"""Generators of several kinds in one table: sampled, measured and timed once, and refused where they cannot be."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config import override
from glotok_ray.config.generator_comparison import CompareGeneratorsRun
from glotok_ray.stages import compare_generators, image_measurement
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from jobs import compare_generators as job
from tests.evaluation.tiny_inputs import copy_shards, settings, write_images, write_inputs
from tests.small_data import small_pool
from tests.small_residuals import write_generator, write_tokenizer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_inputs(tmp_path_factory.mktemp("generators"))
    write_tokenizer(folder / "rq_vae")
    write_generator(folder / "rq", folder / "rq_vae", ("a", "b"))
    return folder


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Both pools in this process; counts units of each."""
    found = {"sample": 0, "evaluate": 0}

    def here(units, actor_class, arguments, pool, *, stage, sizes):
        found[stage] += len(units)
        return map(actor_class(**arguments), units) if units else iter(())

    monkeypatch.setattr(image_measurement, "map_shards", here)
    monkeypatch.setattr("glotok_ray.on_ray.actor_pool.map_shards", here)
    return found


def comparison(inputs: Path, output: Path, *names: str) -> CompareGeneratorsRun:
    alone = dict.fromkeys(
        ("tokenizer_path", "codes_path", "generator_path", "samples_path", "training_path"), ""
    )
    return CompareGeneratorsRun(
        generator_paths=tuple(str(inputs / name) for name in names),
        output_path=str(output),
        num_images=6,
        timed_images=2,
        use_gpu=False,
        shown_images=3,
        pool=small_pool(),
        evaluation=override(settings(inputs, output / "unused"), alone),
    )


def test_all_kinds_stand_in_one_table(inputs: Path, tmp_path: Path, units: dict[str, int]) -> None:
    config = comparison(inputs, tmp_path / "both", "xar", "far", "rq")
    manifest = job.run(config)
    folder = tmp_path / "both"
    rows = {row["name"]: row for row in manifest["rows"]}
    assert list(rows) == ["xar", "far", "rq"]
    assert [row["architecture"] for row in rows.values()] == ["xAR", "FAR", "RQ-Transformer"]
    assert [row["tokens"] for row in rows.values()] == [16, 32, 2 * 2 * 3]
    assert rows["rq"]["sampling"].startswith("guidance 1,")
    for row in rows.values():
        assert row["metrics"]["images_per_second"] > 0
        assert row["metrics"]["samples_fd_effnet"] > 0
    shown = job.show(manifest)
    assert "| xar | xAR |" in shown
    assert "*VAR-d16*" in shown
    with (folder / "table.csv").open() as stream:
        found = list(csv.DictReader(stream))
    assert [row["name"] for row in found[:3]] == ["xar", "far", "rq"]
    assert len(found) == 3 + 20
    assert artefact.read_json(folder / "metrics.json")["rows"] == manifest["rows"]
    assert Image.open(folder / "samples.png").size[1] > 2 * 90
    # What it drew is what sample_images draws.
    drawn = np.load(folder / "values/far_samples/samples.npz")["arr_0"]
    assert drawn.shape == (6, 16, 16, 3)
    assert not any(name.startswith("values") for name in manifest["files"])

    done = dict(units)
    assert job.run(config)["written_unix_s"] == manifest["written_unix_s"]
    assert units == done


def test_a_comparison_that_was_killed_goes_on(
    inputs: Path, tmp_path: Path, units: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = comparison(inputs, tmp_path / "both", "xar", "far")
    timed = compare_generators._timed

    def killed(config, one, folder):
        if one.name == "far":
            raise KeyboardInterrupt
        return timed(config, one, folder)

    monkeypatch.setattr(compare_generators, "_timed", killed)
    with pytest.raises(KeyboardInterrupt):
        compare_generators.run(config)
    done = dict(units)
    monkeypatch.setattr(compare_generators, "_timed", timed)
    assert len(compare_generators.run(config)["rows"]) == 2
    assert units == done


def test_other_training_crops_are_another_comparison(
    inputs: Path, tmp_path: Path, units: dict[str, int]
) -> None:
    training = tmp_path / "training"
    shutil.copytree(inputs / "training", training)
    config = override(
        comparison(inputs, tmp_path / "out", "xar"), {"evaluation.training_path": str(training)}
    )
    (row,) = compare_generators.run(config)["rows"]
    assert row["metrics"]["samples_nearest_training"] > 0
    assert units["sample"] > 0
    shutil.rmtree(training)
    write_images(training, np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(ArtefactError, match="--fresh"):
        compare_generators.run(config)


def test_other_weights_of_a_network_are_another_comparison(
    inputs: Path, tmp_path: Path, units: dict[str, int]
) -> None:
    weights = tmp_path / "inception.pth"
    weights.write_bytes(b"one")
    config = override(
        comparison(inputs, tmp_path / "out", "xar"), {"evaluation.inception_path": str(weights)}
    )
    with pytest.raises(ArtefactError, match=r"inception\.pth"):
        compare_generators.run(config)
    assert units["sample"] > 0
    weights.write_bytes(b"two")
    with pytest.raises(ArtefactError, match=r"out: .*--fresh"):
        compare_generators.run(config)


def test_shards_that_fit_no_samples_are_refused_before_anything_is_drawn(
    inputs: Path, tmp_path: Path, units: dict[str, int]
) -> None:
    config = comparison(inputs, tmp_path / "out", "xar")
    for field in ("data_path", "training_path"):
        for change, message in (
            ({"classes": ["a", "c"]}, r"has 2 classes \(a, c\)"),
            ({"image_size": 8}, "stored at 8 pixels .*the tokenizer takes 16"),
        ):
            shards = tmp_path / field / next(iter(change))
            copy_shards(inputs / "validation", shards, **change)
            wrong = override(config, {f"evaluation.{field}": str(shards)})
            for check in (job.run, job.describe):
                with pytest.raises(ArtefactError, match=message):
                    check(wrong)
    assert units == {"sample": 0, "evaluate": 0}
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compared_is_refused(inputs: Path, tmp_path: Path) -> None:
    missing = comparison(inputs, tmp_path / "a", "xar", "none")
    with pytest.raises(ArtefactError, match="none: holds no manifest"):
        compare_generators.compared_generators(missing)
    left = override(missing, {"skip_missing": True})
    assert [one.name for one in compare_generators.compared_generators(left)] == ["xar"]
    with pytest.raises(ArtefactError, match=r"none of .*none is there"):
        compare_generators.compared_generators(
            override(left, {"generator_paths": (str(inputs / "none"),)})
        )
    with pytest.raises(ArtefactError, match="given twice"):
        compare_generators.compared_generators(comparison(inputs, tmp_path / "a", "xar", "xar"))
    with pytest.raises(ValueError, match=r"evaluation\.codes_path = 'x': must be empty"):
        override(missing, {"evaluation.codes_path": "x", "evaluation.tokenizer_path": ""})
