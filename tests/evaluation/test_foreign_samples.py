"""Samples of others: an npz in ADM's layout or a plain folder of images, measured without a manifest or refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config import EvaluateRun
from glotok_ray.evaluation.foreign_samples import is_foreign, read_foreign
from glotok_ray.evaluation.plan import plan
from glotok_ray.evaluation.sample_inputs import SampleReader
from glotok_ray.report.finished_runs import read_run
from glotok_ray.stages import evaluate_images, image_measurement
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from jobs import evaluate_images as evaluate_images_job
from tests.evaluation.tiny_inputs import settings, write_inputs

LABELS = np.array([0, 1, 0, 1, 0, 1])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def images(inputs: Path) -> np.ndarray:
    return np.load(inputs / "samples" / "samples.npz")["arr_0"]


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(units, actor_class, arguments, pool, *, stage, sizes):
        return map(actor_class(**arguments), units) if units else iter(())

    monkeypatch.setattr(image_measurement, "map_shards", run)


def samples_alone(inputs: Path, output: Path, samples: Path, **changes: object) -> EvaluateRun:
    others = {"tokenizer_path": "", "codes_path": "", "generator_path": "", **changes}
    return settings(inputs, output, samples_path=str(samples), **others)


def write_pngs(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number + 7}.png")
    return folder


def test_own_folders_are_told_from_others(inputs: Path, images: np.ndarray, tmp_path: Path) -> None:
    assert not is_foreign(inputs / "samples")
    assert not is_foreign(tmp_path / "missing")
    assert is_foreign(tmp_path / "missing.npz")
    assert is_foreign(write_pngs(tmp_path / "pngs", images))
    # Unfinished ones are ours as well.
    shutil.copytree(inputs / "samples", tmp_path / "begun")
    (tmp_path / "begun" / "manifest.json").unlink()
    assert not is_foreign(tmp_path / "begun")


@pytest.mark.usefixtures("_in_this_process")
def test_foreign_samples_have_the_numbers_of_ours(
    inputs: Path, images: np.ndarray, tmp_path: Path
) -> None:
    np.savez_compressed(tmp_path / "adm.npz", images, LABELS * 0)
    np.savez(tmp_path / "named.npz", arr_0=images, label=LABELS.astype(np.int32) * 0)
    np.savez(tmp_path / "bare.npz", images)
    write_pngs(tmp_path / "pngs", images)
    found = {}
    for samples in (
        inputs / "samples",
        tmp_path / "adm.npz",
        tmp_path / "named.npz",
        tmp_path / "bare.npz",
        tmp_path / "pngs",
    ):
        output = tmp_path / f"{samples.name}_evaluation"
        evaluate_images.run(samples_alone(inputs, output, samples))
        found[samples.name] = artefact.read_json(output / "metrics.json")
    ours = found.pop("samples")
    for name, metrics in found.items():
        labelled = name in ("adm.npz", "named.npz")
        assert metrics.keys() == ours.keys()
        for metric, entry in metrics.items():
            if metric == "samples_own_class" and not labelled:
                assert entry["value"] is None
                assert entry["protocol"].startswith("Undefined here (the samples have no labels).")
            else:
                assert entry["value"] == ours[metric]["value"], (name, metric)
            named = f"{name} (sha256 " in entry["protocol"]
            assert named == metric.startswith("samples_")
        files = "6 PNG files of the folder pngs" if name == "pngs" else f"6 images of {name}"
        protocol = metrics["samples_fd_effnet"]["protocol"]
        assert f"The samples are the {files} (sha256 " in protocol
        assert ("they come with no labels" in protocol) == (not labelled)
        assert protocol.endswith("as stored at 16 x 16 pixels.")
    digest = artefact.sha256_of(tmp_path / "adm.npz")
    assert digest[:12] in found["adm.npz"]["samples_fd_effnet"]["protocol"]


@pytest.mark.usefixtures("_in_this_process")
def test_another_file_of_the_same_name_is_another_evaluation(
    inputs: Path, images: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(tmp_path / "theirs.npz", images)
    config = samples_alone(inputs, tmp_path / "out", tmp_path / "theirs.npz")
    first = evaluate_images.run(config)
    assert "6 samples of width 1,280" in caplog.text
    assert "take at least 1,281 images" in caplog.text
    assert first["foreign_samples"].startswith("The samples are the 6 images of theirs.npz")
    run = read_run(tmp_path / "out")
    assert (run.samples, run.missing) == (None, [])
    assert evaluate_images.run(config)["written_unix_s"] == first["written_unix_s"]
    np.savez(tmp_path / "theirs.npz", images[::-1])
    with pytest.raises(ArtefactError, match="fresh"):
        evaluate_images.run(config)


def test_files_are_read_in_the_order_of_their_numbers(
    inputs: Path, images: np.ndarray, tmp_path: Path
) -> None:
    folder = write_pngs(tmp_path / "pngs", images)
    (folder / "readme.txt").write_text("no image")
    samples = read_foreign(folder)
    assert samples.files == ("7.png", "8.png", "9.png", "10.png", "11.png", "12.png")
    reader = SampleReader(samples_alone(inputs, tmp_path, folder), None)
    found, labels = reader.read(1, 5)
    np.testing.assert_array_equal(found, images[1:5])
    assert labels is None
    digest = samples.sha256
    Image.fromarray(images[0]).save(folder / "12.png")
    assert read_foreign(folder).sha256 != digest
    grey = tmp_path / "grey"
    grey.mkdir()
    Image.fromarray(images[0, ..., 0]).save(grey / "0.jpg")
    assert "0 PNG, 1 JPEG files" in read_foreign(grey).text("0" * 64)
    read = SampleReader(samples_alone(inputs, tmp_path, grey), None).read(0, 1).images
    assert read.shape == (1, 16, 16, 3)


def test_dry_run_counts_foreign_samples(inputs: Path, images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", images)
    facts = evaluate_images_job.describe(
        samples_alone(inputs, tmp_path, tmp_path / "theirs.npz", tokenizer_path="")
    )
    assert facts["images"]["samples"] == 6
    absent = samples_alone(inputs, tmp_path, tmp_path / "absent.npz")
    assert evaluate_images_job.describe(absent)["images"]["samples"] is None


def refused(config: EvaluateRun) -> str:
    """The one line of the job and of its dry run, which leave nothing."""
    lines = set()
    for check in (evaluate_images.run, evaluate_images_job.describe, plan):
        with pytest.raises(ArtefactError) as error:
            check(config)
        lines.add(str(error.value))
    (line,) = lines
    assert "\n" not in line
    assert not Path(config.output_path).exists()
    return line


Write = Callable[[Path, np.ndarray], object]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, images: np.savez(path, images=images), "holds images, not arr_0"),
        (lambda path, images: np.savez(path, images / 255), "arr_0 is float64; images must be"),
        (lambda path, images: np.savez(path, images[0]), r"must be uint8 (n, height, width, 3)"),
        (lambda path, images: np.savez(path, images[:, :8]), "16 x 8 pixels; must be square"),
        (lambda path, images: np.savez(path, images[:0]), "holds no image"),
        (
            lambda path, images: np.savez(path, images[:, :8, :8]),
            "8 x 8 pixels, and the validation crops of",
        ),
        (
            lambda path, images: np.savez(path, images.repeat(2, 1).repeat(2, 2)),
            "32 x 32 pixels, and the validation crops of",
        ),
        (
            lambda path, images: np.savez(path, images, LABELS + 999),
            "its labels reach from 999 to 1000, and",
        ),
        (
            lambda path, images: np.savez(path, images, LABELS[:4]),
            "arr_1 is int64 (4,); labels must be whole numbers (6,)",
        ),
        (
            lambda path, images: np.savez(path, images, LABELS / 2),
            "arr_1 is float64 (6,); labels must be whole numbers",
        ),
        (
            lambda path, images: np.savez(path, arr_0=images, label=np.array([{}] * 6)),
            "label is object (6,); labels must be whole numbers",
        ),
        (lambda path, _: path.write_bytes(b"PK nothing"), "holds no readable arr_0"),
    ],
)
def test_an_npz_that_cannot_be_measured_is_refused_in_one_line(
    inputs: Path, images: np.ndarray, tmp_path: Path, write: Write, message: str
) -> None:
    path = tmp_path / "theirs.npz"
    write(path, images)
    line = refused(samples_alone(inputs, tmp_path / "out", path))
    assert line.startswith(str(path))
    assert message in line


def test_a_folder_that_cannot_be_measured_is_refused_in_one_line(
    inputs: Path, images: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    (folder / "n01440764").mkdir(parents=True)
    config = samples_alone(inputs, tmp_path / "out", folder)
    assert "holds no PNG or JPEG image; it has 1 folders, and images in them" in refused(config)
    for number in range(3):
        Image.fromarray(images[number]).save(folder / f"{number}.png")
    bad = folder / "3.png"
    Image.fromarray(images[0, :, :8]).save(bad)
    assert f"{bad}: 8 x 16 pixels, and the first, 0.png, has width 16" in refused(config)
    bad.write_bytes(b"no image")
    assert f"{bad}: holds no readable PNG or JPEG image" in refused(config)
    whole = (folder / "0.png").read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    reader = SampleReader(config, None)
    with pytest.raises(ArtefactError, match=r"3\.png: holds no readable PNG or JPEG image \("):
        reader.read(0, 4)
    clear = np.concatenate([images[0], np.zeros((16, 16, 1), np.uint8)], axis=2)
    Image.fromarray(clear).save(bad)
    with pytest.raises(ArtefactError, match=r"3\.png: would be laid on white"):
        reader.read(0, 4)


def test_what_samples_of_others_cannot_stand_beside_is_refused(
    inputs: Path, images: np.ndarray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "theirs.npz", images)
    path = tmp_path / "theirs.npz"
    for field, given in (("codes_path", "codes"), ("generator_path", "xar")):
        tokenizer = str(inputs / "tokenizer")
        config = samples_alone(
            inputs, tmp_path / "out", path, tokenizer_path=tokenizer, **{field: str(inputs / given)}
        )
        assert f"{field} = " in refused(config)
        assert f"nothing says that {path} was drawn by that generator" in refused(config)
