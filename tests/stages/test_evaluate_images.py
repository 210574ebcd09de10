"""The job of an evaluation: pool independence, what it leaves, and refusals before anything starts."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from glotok_ray.evaluation.array_names import EFFNET_POOLED
from glotok_ray.evaluation.inputs import baseline_codes
from glotok_ray.evaluation.plan import plan
from glotok_ray.stages import evaluate_images, image_measurement
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from jobs import evaluate_images as evaluate_images_job
from tests.evaluation.tiny_inputs import POSITIONS, describe_samples, settings, write_inputs
from tests.small_data import small_pool


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("evaluate"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_figures_do_not_depend_on_the_number_of_actors(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = evaluate_images.run(settings(inputs, tmp_path / "alone"))
    evaluate_images.run(
        settings(inputs, tmp_path / "shared", pool=small_pool(num_actors=2, batch_size=5))
    )
    metrics = artefact.read_json(tmp_path / "alone" / "metrics.json")
    assert metrics == artefact.read_json(tmp_path / "shared" / "metrics.json")
    assert alone["num_images"] == 11
    for name in (
        "reconstruction_psnr",
        "reconstruction_ssim",
        "reconstruction_fd_effnet",
        "samples_fd_effnet",
        "baseline_uniform_fd_effnet",
        "baseline_marginal_fd_effnet",
        "samples_fd_effnet_training",
        "baseline_marginal_fd_effnet_training",
        "validation_fd_effnet_training",
        "samples_own_class",
        "validation_own_class",
        "samples_nearest_training",
        "validation_nearest_training",
        "decoded_nearest_training",
        "retention_visual_psnr",
        "retention_semantic_psnr",
        "generator_loss",
        "generator_loss_shuffled_labels",
        "semantic_usage",
        "visual_perplexity",
        "reconstruction_psnr_band_1",
        "retention_semantic_psnr_chroma",
        "probe_semantic_histogram",
        "semantic_tsne_refined_gini",
    ):
        # With fewer images than features a distance is rank-deficient, and rounding may bring it below 0.
        assert metrics[name]["value"] > -0.1
        assert metrics[name]["value"] != 0
        facts = metrics[name]["facts"]
        assert {"commit", "version", "crop", "seed", "num_images", "data_sha256"} <= facts.keys()
        assert metrics[name]["protocol"].endswith(
            "The validation crops are crops of the data set, as stored at 16 x 16 pixels."
        )
    assert "6 samples" in metrics["samples_fd_effnet"]["protocol"]
    with np.load(tmp_path / "alone" / "code_counts.npz") as counts:
        assert counts["semantic"].shape == (32,)
        assert counts["semantic"].sum() == 11 * POSITIONS
    with (
        np.load(tmp_path / "alone" / "retention.npz") as retention,
        np.load(tmp_path / "alone" / "reconstructions.npz") as pairs,
    ):
        assert set(retention.files) == {"inputs", "both", "visual", "semantic"}
        assert {
            (retention[name].shape, retention[name].dtype.name) for name in retention.files
        } == {((11, 16, 16, 3), "uint8")}
        np.testing.assert_array_equal(retention["inputs"], pairs["inputs"])
        np.testing.assert_array_equal(retention["both"], pairs["reconstructions"])
    for name in ("reconstructions.png", "baselines.png", "baseline_uniform.npz", "retention.npz"):
        assert name in alone["files"]
    assert not (tmp_path / "alone" / "parts").exists()
    assert not any("parts/" in name for name in alone["files"])
    # What is finished is recognised without building a network.
    monkeypatch.setattr(evaluate_images, "_load", None)
    again = evaluate_images.run(settings(inputs, tmp_path / "alone"))
    assert again["written_unix_s"] == alone["written_unix_s"]


def test_parts_that_are_there_are_not_measured_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(inputs, tmp_path, tokenizer_path="", codes_path="", generator_path="")
    blocks, image_size = plan(config)
    taken: list[str] = []

    def in_this_process(units, actor_class, arguments, pool, *, stage, sizes):
        taken.extend(unit.part.name for unit in units)
        return map(actor_class(**arguments), units) if units else iter(())

    monkeypatch.setattr(image_measurement, "map_shards", in_this_process)

    def measured(fingerprint: str = "settings") -> dict[str, np.ndarray]:
        taken.clear()
        found = image_measurement.measure_images(
            blocks, config, image_size, folder=tmp_path / "parts", fingerprint=fingerprint
        )
        return {
            kind: np.concatenate(list(images.blocks(EFFNET_POOLED)))
            for kind, images in found.items()
        }

    first = measured()
    assert {kind: len(features) for kind, features in first.items()} == {
        "validation": 11,
        "samples": 6,
        "training": 11,
    }
    names = list(taken)
    assert len(names) == len(set(names)) == 6
    measured()
    assert taken == []
    broken = tmp_path / "parts" / names[2]
    broken.write_bytes(broken.read_bytes()[:-1])
    again = measured()
    assert taken == [names[2]]
    for kind, features in first.items():
        np.testing.assert_array_equal(again[kind], features)
    measured(fingerprint="other settings")
    assert taken == names


def test_reduced_pictures_are_refused_where_adm_s_protocol_is_asked_for(
    inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "validation", tmp_path / "reduced")
    facts = artefact.read_json(tmp_path / "reduced" / "dataset.json")
    artefact.write_json(tmp_path / "reduced" / "dataset.json", {**facts, "form": "reduced"})
    config = settings(inputs, tmp_path / "out", data_path=str(tmp_path / "reduced"))
    assert (
        "16 to 20 pixels before, which is not ADM's"
        in evaluate_images_job.describe(config)["crops"]
    )
    strict = dataclasses.replace(config, adm_protocol=True)
    for start in (evaluate_images.run, evaluate_images_job.describe):
        with pytest.raises(ArtefactError, match=r"adm_protocol = True: .*reduced.*--image-size 0"):
            start(strict)
    assert not (tmp_path / "out").exists()
    whole = dataclasses.replace(strict, data_path=str(inputs / "validation"))
    assert evaluate_images_job.describe(whole)["images"]["validation"] == 11


def test_paths_that_do_not_fit_are_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_images.run(
            settings(inputs, tmp_path, tokenizer_path="", samples_path="", generator_path="")
        )
    with pytest.raises(ValueError, match="data_path is empty"):
        evaluate_images.run(settings(inputs, tmp_path, data_path=""))
    with pytest.raises(ValueError, match="baselines need tokenizer_path"):
        evaluate_images.run(settings(inputs, tmp_path, samples_path=""))
    for nothing_to_probe in ({"tokenizer_path": ""}, {"probe_images": 0}):
        with pytest.raises(ValueError, match=r"training_path = .*training': needs samples_path"):
            evaluate_images.run(
                settings(inputs, tmp_path, samples_path="", codes_path="", **nothing_to_probe)
            )
    same = str(inputs / "validation")
    with pytest.raises(ValueError, match="validation crop would be its own nearest training crop"):
        evaluate_images.run(settings(inputs, tmp_path, training_path=same))
    with pytest.raises(ValueError, match="training_images = -1: must be at least 0"):
        settings(inputs, tmp_path, training_images=-1)
    with pytest.raises(ArtefactError, match=r"training_images = 12: .*training holds 11 images"):
        plan(settings(inputs, tmp_path, training_images=12))
    other = settings(inputs, tmp_path, tokenizer_path=str(inputs / "other_tokenizer"))
    with pytest.raises(ArtefactError, match="codes: made by another tokenizer"):
        baseline_codes(other)
    with pytest.raises(
        ArtefactError, match=r"samples: decoded by tokenizer \w+, but .* beside them"
    ):
        plan(other)
    with pytest.raises(ArtefactError, match="holds 11 images"):
        plan(settings(inputs, tmp_path, num_images=12))


def small_pictures(inputs: Path, folder: Path) -> Path:
    """The validation shards as a recorded 8 pixels wide."""
    shutil.copytree(inputs / "validation", folder)
    facts = artefact.read_json(folder / "dataset.json")
    artefact.write_json(folder / "dataset.json", {**facts, "image_size": 8})
    artefact.write_manifest(folder, "shards")
    return folder


def test_pictures_of_a_smaller_side_are_refused_before_anything_starts(
    inputs: Path, tmp_path: Path
) -> None:
    data = str(small_pictures(inputs, tmp_path / "small"))
    for changes in (
        {},
        {"samples_path": "", "codes_path": "", "training_path": ""},
        {"tokenizer_path": "", "codes_path": "", "generator_path": ""},
        {"tokenizer_path": "", "codes_path": "", "training_path": "", "samples_path": ""},
    ):
        config = settings(inputs, tmp_path / "out", data_path=data, **changes)
        for check in (evaluate_images.run, evaluate_images_job.describe):
            with pytest.raises(ArtefactError, match=r"are stored at 8 pixels .* takes 16"):
                check(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("classes", "images", "message"),
    [
        (["b", "a"], 6, r"samples has 2 classes \(b, a\), and .*validation has 2 classes \(a, b\)"),
        (["a", "b"], 5, r"samples\.npz: holds an array of shape \(6, .*dataset\.json says \(5, "),
    ],
)
def test_samples_must_be_what_their_folder_says(
    inputs: Path, tmp_path: Path, classes: list[str], images: int, message: str
) -> None:
    folder = tmp_path / "samples"
    shutil.copytree(inputs / "samples", folder)
    stored = np.load(folder / "samples.npz")["arr_0"]
    digest = artefact.sha256_of(inputs / "tokenizer" / "tokenizer.safetensors")
    describe_samples(folder, stored[:images], classes, digest)
    config = settings(inputs, tmp_path / "out", samples_path=str(folder))
    for check in (plan, evaluate_images_job.describe):
        with pytest.raises(ArtefactError, match=message):
            check(config)


def test_codes_of_other_classes_make_no_baseline(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    shutil.copytree(inputs / "codes", folder)
    facts = artefact.read_json(folder / "dataset.json")
    artefact.write_json(folder / "dataset.json", {**facts, "classes": ["a", "c"]})
    artefact.write_manifest(folder, "codes")
    config = settings(inputs, tmp_path / "out", codes_path=str(folder))
    for check in (plan, evaluate_images_job.describe):
        with pytest.raises(ArtefactError, match=r"codes has 2 classes \(a, c\)"):
            check(config)


def test_training_images_of_other_classes_or_sides_are_refused(
    inputs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "training"
    shutil.copytree(inputs / "training", folder)
    facts = artefact.read_json(folder / "dataset.json")
    config = settings(inputs, tmp_path / "out", training_path=str(folder))
    for change, message in (
        ({"classes": ["a", "c"]}, r"training has 2 classes \(a, c\)"),
        ({"image_size": 8}, r"training: its images are stored at 8 pixels .* takes 16"),
    ):
        artefact.write_json(folder / "dataset.json", {**facts, **change})
        artefact.write_manifest(folder, "shards")
        for check in (plan, evaluate_images.run, evaluate_images_job.describe):
            with pytest.raises(ArtefactError, match=message):
                check(config)


def test_generators_of_other_classes_or_tokenizers_are_refused(
    inputs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "generator"
    shutil.copytree(inputs / "xar", folder)
    facts = artefact.read_json(folder / "generator.json")
    other = artefact.sha256_of(inputs / "other_tokenizer" / "tokenizer.safetensors")
    config = settings(inputs, tmp_path / "out", generator_path=str(folder))
    alone = dataclasses.replace(config, tokenizer_path="", codes_path="")
    for run, change, message in (
        (config, {"classes": ["a", "c"]}, r"generator has 2 classes \(a, c\)"),
        (config, {"tokenizer_sha256": other}, rf"generator: was trained on codes .*{other}"),
        (alone, {"tokenizer_sha256": other}, r"samples: decoded by .* so it drew none of them"),
    ):
        artefact.write_json(folder / "generator.json", {**facts, **change})
        artefact.write_manifest(folder, "generator")
        for check in (plan, evaluate_images.run, evaluate_images_job.describe):
            with pytest.raises(ArtefactError, match=message):
                check(run)
    artefact.write_json(folder / "generator.json", facts)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtefactError, match="generator"):
        plan(config)
    with pytest.raises(ValueError, match="generator_draws = 0: must be at least 1"):
        settings(inputs, tmp_path, generator_draws=0)
    assert not (tmp_path / "out").exists()


def test_dry_run_counts_images(inputs: Path, tmp_path: Path) -> None:
    images = evaluate_images_job.describe(settings(inputs, tmp_path))["images"]
    assert images == {
        "validation": 11,
        "samples": 6,
        "baseline_uniform": 6,
        "baseline_marginal": 6,
        "training": 11,
    }
    absent = settings(inputs, tmp_path, data_path="nowhere", samples_path="nothing")
    assert set(evaluate_images_job.describe(absent)["images"].values()) == {None}
