"""Features of real images outlive an evaluation: the next one computes none of them and has the same digits."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from glotok_ray.config import EvaluateRun
from glotok_ray.evaluation import kept_features
from glotok_ray.evaluation.extractors import Network
from glotok_ray.evaluation.features import POOLED, EfficientNetLite0Features
from glotok_ray.evaluation.plan import TRAINING, VALIDATION, plan
from glotok_ray.metrics.frechet import FeatureMoments, FeatureSummary
from glotok_ray.stages import evaluate_images, image_measurement
from glotok_ray.storage import artefact
from tests.evaluation.tiny_inputs import settings, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("kept"))


class Measured:
    """Evaluations in this process, and how many images EfficientNet-Lite0 saw in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: EvaluateRun) -> None:
        self.config, self.images, self.units = config, 0, 0
        compute = EfficientNetLite0Features.__call__

        def counted(network: EfficientNetLite0Features, images: np.ndarray):
            self.images += len(images)
            return compute(network, images)

        def here(units, actor_class, arguments, pool, *, stage, sizes):
            self.units += len(units)
            return map(actor_class(**arguments), units) if units else iter(())

        monkeypatch.setattr(EfficientNetLite0Features, "__call__", counted)
        monkeypatch.setattr(image_measurement, "map_shards", here)
        # t-SNE is no part of this, and Ray's alone.
        monkeypatch.setattr(evaluate_images, "run_at_once", lambda function, draws: [])

    def run(self, name: str, **changes: object) -> dict:
        self.images = self.units = 0
        output = Path(self.config.output_path).with_name(name)
        evaluate_images.run(dataclasses.replace(self.config, output_path=str(output), **changes))
        return artefact.read_json(output / "metrics.json")


@pytest.fixture
def measured(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    alone = {"tokenizer_path": "", "codes_path": "", "generator_path": ""}
    return Measured(monkeypatch, settings(inputs, tmp_path / "out", **alone))


def cache(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.parquet"))


def test_the_next_evaluation_computes_no_feature_of_real_images(
    measured: Measured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    anew = measured.run("anew")
    assert (measured.images, measured.units) == (11 + 6 + 11, 6)
    kept = str(tmp_path / "statistics")
    assert measured.run("first", statistics_path=kept) == anew
    assert measured.images == 11 + 6 + 11
    assert "used again" not in caplog.text
    assert measured.run("second", statistics_path=kept) == anew
    assert (measured.images, measured.units) == (6, 2)
    lines = [line for line in caplog.messages if "used again" in line]
    assert lines == [
        f"features are used again from {kept}: 11 validation crops by EfficientNet-Lite0, 11 training crops by "
        "EfficientNet-Lite0"
    ]
    assert not list(tmp_path.glob("*/parts"))


NETWORK = Network("effnet", "EfficientNet-Lite0", {POOLED: 1280}, "resized to 32", "0" * 64)


def folders(config: EvaluateRun, network: Network = NETWORK) -> dict[str, Path]:
    blocks, image_size = plan(config)
    kept = kept_features.kept_networks(config, [network], blocks, image_size, {})
    return {one.kind: one.folder for one in kept}


def test_what_features_depend_on_is_another_folder(inputs: Path, tmp_path: Path) -> None:
    alone = {"tokenizer_path": "", "codes_path": "", "generator_path": ""}
    config = settings(inputs, tmp_path, statistics_path=str(tmp_path / "kept"), **alone)
    first = folders(config)
    assert first.keys() == {VALIDATION, TRAINING}
    assert len(set(first.values())) == 2
    for network in (
        NETWORK._replace(weights_sha256="1" * 64),
        NETWORK._replace(input_contract="resized to 48"),
    ):
        assert not set(folders(config, network).values()) & set(first.values())
    batches = dataclasses.replace(config, pool=dataclasses.replace(config.pool, batch_size=4))
    assert not set(folders(batches).values()) & set(first.values())
    # Fewer training crops leave the validation crops as they are.
    fewer = folders(dataclasses.replace(config, training_images=4))
    assert fewer[VALIDATION] == first[VALIDATION]
    assert fewer[TRAINING] != first[TRAINING]
    assert folders(dataclasses.replace(config, output_path="elsewhere", seed=3)) == first


def test_a_damaged_part_is_named_and_computed_again(
    measured: Measured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "statistics"
    first = measured.run("first", statistics_path=str(kept))
    (part, *_) = cache(kept)
    part.write_bytes(part.read_bytes()[:-9])
    assert measured.run("second", statistics_path=str(kept)) == first
    assert 6 < measured.images < 28
    assert f"{part.parent}: 1 of " in caplog.text
    assert f"parts are damaged or of other blocks, {part.name} first" in caplog.text


def test_beside_a_tokenizer_crops_are_reconstructed_and_not_measured_again(
    measured: Measured, inputs: Path, tmp_path: Path
) -> None:
    """The first evaluation has samples alone, the second a tokenizer too."""
    kept = str(tmp_path / "statistics")
    measured.run("first", statistics_path=kept)
    with_tokenizer = {
        "tokenizer_path": str(inputs / "tokenizer"),
        "generator_path": str(inputs / "xar"),
    }
    found = measured.run("second", statistics_path=kept, **with_tokenizer)
    # Reconstructions, samples, and the training crops, decoded.
    assert measured.images == 11 + 6 + 11
    expected = measured.run("anew", **with_tokenizer)
    assert measured.images == 11 + 6 + 11 + 11 + 11
    assert found == expected
    assert found["reconstruction_fd_effnet"]["value"] is not None


def test_moments_are_kept_where_there_are_more_images_than_features(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    kept = tmp_path / "statistics"
    computed = []

    def of_moments(blocks) -> FeatureSummary:
        features = np.concatenate(list(blocks))
        computed.append(len(features))
        return FeatureSummary(None, FeatureMoments.of(features))

    monkeypatch.setattr(kept_features, "summarize", of_moments)
    first = measured.run("first", statistics_path=str(kept), training_path="")
    assert computed == [11]
    (file,) = kept.glob("statistics-*.npz")
    assert measured.run("second", statistics_path=str(kept), training_path="") == first
    assert computed == [11]
    file.write_bytes(file.read_bytes()[:-300])
    assert measured.run("third", statistics_path=str(kept), training_path="") == first
    assert computed == [11, 11]
    assert f"{file}: not readable as kept statistics" in caplog.text
    assert caplog.messages[-1].endswith("; it is computed again")


def test_nothing_is_kept_where_no_folder_is_named(measured: Measured, tmp_path: Path) -> None:
    blocks, image_size = plan(measured.config)
    assert {block.kind for block in blocks} > {VALIDATION}
    assert kept_features.kept_networks(measured.config, [], blocks, image_size, {}) == []
