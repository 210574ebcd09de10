"""Protocols as data: what all metrics share, what samples say of themselves, and code without git."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from glotok_ray.config import override, to_dict
from glotok_ray.evaluation import facts
from glotok_ray.evaluation.entries import metric_entry
from glotok_ray.evaluation.extractors import Network
from glotok_ray.evaluation.facts import code_facts, sampling_facts, sampling_text, with_facts
from glotok_ray.recipes import sample_images
from glotok_ray.storage import artefact
from tests.evaluation.tiny_inputs import settings, write_inputs

EFFNET = Network("effnet", "EfficientNet-Lite0", {"pooled": 4}, "128 x 128", "a" * 64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("facts"))


def test_every_metric_has_what_all_share_and_what_is_its_own(inputs: Path, tmp_path: Path) -> None:
    own = {"reference": "the training crops", "num_images": 5}
    metrics = {
        "reconstruction_psnr": metric_entry("PSNR", 20.0, "Mean."),
        "semantic_usage": metric_entry("Usage", 0.5, "Share.", facts={"codes": 32}),
        "samples_own_class": metric_entry("Own class", 0.5, "Share."),
        "samples_fd_effnet_training": metric_entry("FD", 5.0, "Distance.", facts=own),
        "generator_loss": metric_entry("Loss", 1.0, "Mean."),
        "decoded_nearest_training": metric_entry("Nearest", 4.0, "Median.", facts=own),
    }
    config = settings(inputs, tmp_path, seed=7)
    counts = {"validation": 11, "samples": 6}
    found = with_facts(metrics, config, [EFFNET], crops="ADM's", counts=counts, digests={})
    shared = {"commit", "version", "crop", "seed", "data_sha256", "num_images"}
    for name, entry in found.items():
        assert shared <= entry["facts"].keys(), name
        assert (entry["facts"]["seed"], entry["facts"]["crop"]) == (7, "ADM's")
        assert {key: entry[key] for key in ("label", "value")} == {
            key: metrics[name][key] for key in ("label", "value")
        }
    of = {name: entry["facts"] for name, entry in found.items()}
    tokenizer = artefact.sha256_of(inputs / "tokenizer" / "tokenizer.safetensors")
    assert of["reconstruction_psnr"]["tokenizer_sha256"] == tokenizer
    assert of["semantic_usage"]["tokenizer_sha256"] == tokenizer
    assert of["semantic_usage"]["codes"] == 32
    assert of["samples_own_class"]["weights_sha256"] == "a" * 64
    assert of["samples_own_class"]["num_images"] == 6
    assert of["samples_fd_effnet_training"]["num_images"] == 5
    training = artefact.sha256_of(inputs / "training" / "dataset.json")
    assert of["samples_fd_effnet_training"]["reference_sha256"] == training
    assert "generator_sha256" in of["generator_loss"]
    decoded = of["decoded_nearest_training"]
    assert (decoded["tokenizer_sha256"], decoded["num_images"]) == (tokenizer, 5)
    assert (decoded["weights_sha256"], decoded["reference_sha256"]) == ("a" * 64, training)
    # The tiny samples have no settings, as those of older versions.
    assert of["samples_own_class"]["class_sampling"] == "equally often"
    assert "guidance" not in of["samples_own_class"]
    assert found["samples_own_class"]["protocol"] == "Share."


@pytest.mark.parametrize(
    ("recipe", "expected", "sentence"),
    [
        (
            "quickstart",
            {"guidance": 6.0, "steps": 10, "solver": "euler_maruyama", "sampling_seed": 3},
            "Samples were drawn with guidance 6 (",
        ),
        (
            "quickstart_far",
            {"temperature": 0.75, "sampling_seed": 3},
            "temperature 0.75, seed 3, classes equally often.",
        ),
    ],
)
def test_samples_say_how_they_were_drawn(
    tmp_path: Path, recipe: str, expected: dict, sentence: str
) -> None:
    run = override(sample_images.RECIPES[recipe](), {"seed": 3})
    (tmp_path / "samples.npz").write_bytes(b"images")
    artefact.write_manifest(tmp_path, "samples", config=to_dict(run))
    found = sampling_facts(str(tmp_path))
    assert {name: found[name] for name in expected} == expected
    assert sentence in sampling_text(found)
    assert "not stated" not in sampling_text(found)


def test_images_of_others_say_nothing(tmp_path: Path) -> None:
    assert sampling_facts("") == {}
    assert sampling_facts(str(tmp_path)) == {}
    assert sampling_text({}) == ""


def test_code_without_git_or_installation_is_named_by_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert code_facts()["version"]

    def gone(*_, **__):
        raise FileNotFoundError

    with monkeypatch.context() as without_git:
        without_git.setattr(subprocess, "run", gone)
        artefact.git_commit.cache_clear()
        assert code_facts()["commit"] == ""

    def uninstalled(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(facts.importlib.metadata, "version", uninstalled)
    assert code_facts() == {"commit": "", "version": ""}
    artefact.git_commit.cache_clear()
