"""Several sets of samples in one call: each has the numbers that it has alone, real images are measured once, and sets
that cannot be compared are refused by name.
"""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from glotok_ray.config import EvaluateRun, from_dict, override, to_dict, with_absolute_paths
from glotok_ray.config.overrides import relative_paths
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.recipes.sweep_parts import samples_evaluations
from glotok_ray.stages import compare_samples, evaluate_images, image_measurement, sweep_guidance
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.marks import MARK
from jobs import evaluate_images as evaluate_images_job
from tests.evaluation.tiny_inputs import settings, write_inputs
from tests.stages.test_sweep_guidance import sweep


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("compare"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pool in this process; images that EfficientNet-Lite0 saw."""
    found: list[int] = []
    compute = EfficientNetLite0Features.__call__

    def counted(network, images):
        found.append(len(images))
        return compute(network, images)

    def here(units, actor_class, arguments, pool, *, stage, sizes):
        return map(actor_class(**arguments), units) if units else iter(())

    monkeypatch.setattr(EfficientNetLite0Features, "__call__", counted)
    monkeypatch.setattr(image_measurement, "map_shards", here)
    return found


def others(folder: Path, count: int = 6, side: int = 16) -> Path:
    """Samples that no job drew."""
    images = np.random.default_rng(3).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    folder.parent.mkdir(exist_ok=True)
    np.savez(folder, images)
    return folder


def compared(inputs: Path, output: Path, *samples: Path) -> EvaluateRun:
    return settings(inputs, output, samples_paths=tuple(map(str, samples)))


def test_each_set_has_its_own_numbers_and_real_images_are_measured_once(
    inputs: Path, tmp_path: Path, seen: list[int]
) -> None:
    theirs = others(tmp_path / "theirs" / "samples.npz")
    config = compared(inputs, tmp_path / "both", inputs / "samples", theirs)
    manifest = evaluate_images_job.run(config)
    # 11 validation crops, 11 training crops and 6 samples of each set.
    assert sum(seen) == 11 + 11 + 6 + 6
    evaluations = samples_evaluations(config)
    rows = artefact.read_json(tmp_path / "both" / "samples.json")["values"]
    assert [row["samples"] for row in rows] == ["samples", "samples.npz"]
    for row, path in zip(rows, (inputs / "samples", theirs), strict=True):
        folder = Path(evaluations[row["samples"]].output_path)
        assert folder.parent == tmp_path / "both" / "values"
        own = artefact.read_json(folder / "metrics.json")
        no_more = {"tokenizer_path": "", "codes_path": "", "generator_path": ""}
        alone = settings(inputs, tmp_path / f"{path.name}_alone", samples_path=str(path), **no_more)
        evaluate_images.run(alone)
        assert own == artefact.read_json(Path(alone.output_path) / "metrics.json")
        for name in ("samples_fd_effnet", "samples_fd_effnet_training", "samples_own_class"):
            assert row[name] == own[name]["value"]
    assert rows[0]["samples_fd_effnet"] != rows[1]["samples_fd_effnet"]
    with (tmp_path / "both" / "samples.csv").open() as stream:
        assert [row["samples"] for row in csv.DictReader(stream)] == ["samples", "samples.npz"]
    table = evaluate_images_job.show(manifest)
    assert table.startswith("| samples | FD-EffNet of samples |")
    assert (tmp_path / "both" / "samples.md").read_text() in table
    assert not any(name.startswith(("values", "statistics")) for name in manifest["files"])

    # The same call finds all of it; one set more is measured alone, and the table holds the sets of the call.
    seen.clear()
    assert evaluate_images_job.run(config)["written_unix_s"] == manifest["written_unix_s"]
    assert seen == []
    assert not (tmp_path / "both" / MARK).exists()
    third = others(tmp_path / "third.npz")
    more = evaluate_images_job.run(compared(inputs, tmp_path / "both", theirs, third))
    assert sum(seen) == 6
    assert list(more["sets"]) == ["samples.npz", "third.npz"]
    # A set that was drawn anew is not taken for the old one.
    np.savez(third, np.zeros((6, 16, 16, 3), np.uint8))
    with pytest.raises(ArtefactError, match=r"third\.npz_\w{8}_evaluation.*--fresh"):
        evaluate_images_job.run(compared(inputs, tmp_path / "both", theirs, third))


def test_sets_of_one_name_are_measured_in_folders_of_their_own(
    inputs: Path, tmp_path: Path, seen: list[int]
) -> None:
    first, second = (others(tmp_path / name / "samples.npz") for name in ("a", "b"))
    with np.load(first) as stored:
        np.savez(second, 255 - stored["arr_0"])
    both = [*map(str, (first, second)), "s3://bucket/a/samples.npz"]
    folders = samples_evaluations(settings(inputs, tmp_path / "out", samples_paths=tuple(both)))
    assert len({each.output_path for each in folders.values()}) == 3
    evaluate_images_job.run(compared(inputs, tmp_path / "out", first, inputs / "samples"))
    seen.clear()
    more = evaluate_images_job.run(compared(inputs, tmp_path / "out", second, inputs / "samples"))
    assert sum(seen) == 6
    assert list(more["sets"]) == ["samples.npz", "samples"]


def test_sets_that_cannot_be_compared_are_refused_before_anything_starts(
    inputs: Path, tmp_path: Path
) -> None:
    samples = inputs / "samples"
    classes = tmp_path / "classes"
    shutil.copytree(samples, classes)
    facts = artefact.read_json(classes / "dataset.json")
    artefact.write_json(classes / "dataset.json", {**facts, "classes": ["a", "b", "c"]})
    artefact.write_manifest(
        classes,
        "samples",
        num_images=6,
        tokenizer_sha256=artefact.read_manifest(samples, "samples")["tokenizer_sha256"],
    )
    for other, message in (
        (
            others(tmp_path / "few.npz", count=5),
            r"few\.npz holds 5 images of 16 x 16 pixels, and .*/samples 6 images of 16 x 16",
        ),
        (others(tmp_path / "small.npz", side=8), r"small\.npz: its images have 8 x 8 pixels"),
        (classes, r"classes has 3 classes \(a, b, c\), and .*validation has 2 classes \(a, b\)"),
    ):
        config = compared(inputs, tmp_path / "out", samples, other)
        for check in (compare_samples.run, evaluate_images_job.describe):
            with pytest.raises(ArtefactError, match=message):
                check(config)
    for paths in ((samples,), (samples, samples)):
        with pytest.raises(ValueError, match=r"samples_paths = .*: must be two or more different"):
            compared(inputs, tmp_path / "out", *paths)
    assert not (tmp_path / "out").exists()


def test_only_the_job_compares_sets(inputs: Path, tmp_path: Path) -> None:
    two = {"samples_paths": ("a", "b")}
    with pytest.raises(
        ValueError, match=r"samples_paths = .*/a, .*/b: several are compared by jobs"
    ):
        evaluate_images.run(settings(inputs, tmp_path / "out", **two))
    swept = override(sweep(inputs, tmp_path / "out"), {"evaluation.samples_paths": ("a", "b")})
    with pytest.raises(ValueError, match="samples_paths = "):
        sweep_guidance.run(swept)
    assert not (tmp_path / "out").exists()


def test_dry_run_lists_the_sets(inputs: Path, tmp_path: Path) -> None:
    theirs = others(tmp_path / "theirs.npz")
    facts = evaluate_images_job.describe(
        compared(inputs, tmp_path / "out", inputs / "samples", theirs)
    )
    assert list(facts["samples"]) == ["samples", "theirs.npz"]
    for found in facts["samples"].values():
        assert found["images"] == {"validation": 11, "samples": 6, "training": 11}
        assert not found["measures_reconstructions"]


def test_paths_in_a_list_are_paths(tmp_path: Path) -> None:
    config = EvaluateRun(samples_paths=("run_a/samples", "run_b/samples"))
    assert relative_paths(config)["samples_paths.1"] == "run_b/samples"
    located = with_absolute_paths(config, tmp_path)
    assert located.samples_paths == tuple(
        str(tmp_path / name) for name in ("run_a/samples", "run_b/samples")
    )
    assert from_dict(EvaluateRun, to_dict(located)) == located
    assert list(samples_evaluations(located)) == ["run_a_samples", "run_b_samples"]
    with pytest.raises(ValueError, match=r"samples_paths\.2: name one of its 2 paths"):
        override(config, {"samples_paths.2": "c"})
