"""What Inception tells of an evaluation's images: each metric beside torch-fidelity's own, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full

from glotok_ray.evaluation.array_names import of_reconstructions
from glotok_ray.evaluation.distances import distance_metrics
from glotok_ray.evaluation.extractors import build_extractors, networks_of
from glotok_ray.evaluation.inputs import check_inputs
from glotok_ray.evaluation.metrics import metrics_of
from glotok_ray.evaluation.plan import REFERENCE, SAMPLES, VALIDATION, plan
from glotok_ray.evaluation.reference import read_reference
from glotok_ray.evaluation.units import build_measurement
from glotok_ray.metrics.frechet import frechet_distance_of_features
from glotok_ray.storage.artefact import ArtefactError
from tests.evaluation.stored_parts import in_parts
from tests.evaluation.tiny_inputs import settings, write_inputs

REFERENCE_IMAGES = 12


def write_reference(path: Path, *, seed: int = 0) -> Path:
    """Statistics in ADM's layout, with images, packed."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (REFERENCE_IMAGES, 16, 16, 3), dtype=np.uint8)
    arrays = {}
    for suffix, width in (("", 2048), ("_s", 2023)):
        arrays[f"mu{suffix}"] = generator.normal(size=width).astype(np.float32)
        arrays[f"sigma{suffix}"] = np.eye(width) * 0.1
    np.savez_compressed(path, arr_0=images, **arrays)
    return path


@pytest.mark.slow
def test_every_metric_is_that_of_the_stored_features(tmp_path: Path, inception_file: Path) -> None:
    inputs = write_inputs(tmp_path)
    config = dataclasses.replace(
        settings(inputs, tmp_path),
        inception_path=str(inception_file),
        reference_path=str(write_reference(tmp_path / "reference.npz")),
    )
    blocks, image_size = plan(config)
    folder = tmp_path / "stored" / "parts"
    folder.mkdir(parents=True)
    kinds = {VALIDATION, SAMPLES, REFERENCE}
    chosen = [block for block in blocks if block.kind in kinds]
    measure = build_measurement(config, image_size=image_size, folder=folder)
    measured = in_parts(chosen, measure, tmp_path / "stored")
    networks = networks_of(build_extractors(config, torch.device("cpu")))
    reference = read_reference(Path(config.reference_path), networks[1])
    found = metrics_of(
        measured,
        dataclasses.replace(config, uniformity_repeats=0),
        image_size,
        lambda draws: [],
        num_classes=2,
        networks=networks,
        reference=reference,
    )

    def rows(kind: str, output: str, *, reconstructed: bool = False) -> np.ndarray:
        name = f"inception.{output}"
        return np.concatenate(
            list(measured[kind].blocks(of_reconstructions(name) if reconstructed else name))
        )

    def value(name: str) -> float:
        return found[name]["value"]

    for output, name in (("pooled", "fid"), ("spatial", "sfid")):
        real = rows(VALIDATION, output)
        expected = frechet_distance_of_features(rows(SAMPLES, output), real)
        assert value(f"samples_{name}") == pytest.approx(expected, rel=1e-9)
        decoded = rows(VALIDATION, output, reconstructed=True)
        expected = frechet_distance_of_features(decoded, real)
        assert value(f"reconstruction_{name}") == pytest.approx(expected, rel=1e-9)
        assert value(f"samples_{name}_reference") > 0
    logits = torch.from_numpy(rows(VALIDATION, "logits", reconstructed=True))
    expected = isc_features_to_metric(logits, splits=10, shuffle=False)
    assert value("reconstruction_inception_score") == pytest.approx(
        expected["inception_score_mean"], rel=1e-9
    )
    shares = calculate_precision_recall_full(
        torch.from_numpy(rows(SAMPLES, "pooled")), torch.from_numpy(rows(REFERENCE, "pooled")), 3
    )
    assert len(rows(REFERENCE, "pooled")) == REFERENCE_IMAGES
    assert value("samples_precision_reference") == pytest.approx(shares[0], rel=1e-6)
    assert value("samples_recall_reference") == pytest.approx(shares[1], rel=1e-6)
    # Six samples are no ten parts, and no subset of a thousand.
    for name, reason in (
        ("samples_inception_score", "Undefined below 10 images"),
        ("samples_kid_reference", "Undefined below 1000 images a side"),
    ):
        assert value(name) is None
        assert found[name]["protocol"].startswith(reason)
    facts = found["samples_fid_reference"]["facts"]
    assert facts["reference_sha256"] == reference.sha256
    assert facts["num_images"] == 6
    assert found["reconstruction_fid"]["facts"]["reference"] == "the same validation crops"
    assert facts["weights_sha256"] == networks[1].weights_sha256
    assert "rank 5 at most" in found["samples_fid"]["protocol"]

    # Of a file that holds images alone the statistics are those of the images.
    alone = distance_metrics(measured, config, networks, reference._replace(gaussians={}))
    for output, name in (("pooled", "fid"), ("spatial", "sfid")):
        entry = alone[f"samples_{name}_reference"]
        expected = frechet_distance_of_features(rows(SAMPLES, output), rows(REFERENCE, output))
        assert entry["value"] == pytest.approx(expected, rel=1e-9)
        assert entry["facts"]["reference_images"] == REFERENCE_IMAGES
        assert entry["facts"]["reference_sha256"] == reference.sha256
        assert f"{REFERENCE_IMAGES} images in reference.npz (sha256 " in entry["protocol"]


@pytest.mark.parametrize("name", ["inception_path", "reference_path", "dinov2_path", "lpips_path"])
def test_files_that_are_not_there_are_told_before_anything_starts(
    name: str, tmp_path: Path
) -> None:
    config = settings(tmp_path, tmp_path)
    missing = dataclasses.replace(config, **{name: str(tmp_path / "missing.pth")})
    with pytest.raises(ValueError, match=rf"^{name} = .*missing.pth'?: is no file; give the file"):
        check_inputs(missing)


def test_what_nothing_would_read_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path)
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"reference_path = .*: needs inception_path"):
        check_inputs(dataclasses.replace(config, reference_path=str(file)))
    alone = dataclasses.replace(config, tokenizer_path="", codes_path="", lpips_path=str(file))
    with pytest.raises(ValueError, match=r"lpips_path = .*: needs tokenizer_path"):
        check_inputs(alone)


def test_statistics_of_another_width_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    (network,) = networks_of(build_extractors(settings(tmp_path, tmp_path), torch.device("cpu")))
    with pytest.raises(ArtefactError, match="have 3 numbers, and EfficientNet-Lite0 gives 1280"):
        read_reference(path, network)
