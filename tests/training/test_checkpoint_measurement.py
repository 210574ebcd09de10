"""A checkpoint is measured as the evaluation job measures a finished run, and its weights become a folder for jobs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glotok_ray.config import (
    CheckpointEvaluationConfig,
    CodeDataConfig,
    FARCheckpointsConfig,
    FARRun,
    FlowSamplerConfig,
    ImageDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
    TokenizerRun,
    XARCheckpointsConfig,
    XARRun,
    override,
)
from glotok_ray.evaluation.extractors import build_extractors
from glotok_ray.evaluation.measure import BlockMeasurement
from glotok_ray.evaluation.plan import plan
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.generator import load_generator
from glotok_ray.pretrained.tokenizer import load_tokenizer
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training import checkpoint_weights
from glotok_ray.training.checkpoint_measurement import CheckpointMeasurement
from glotok_ray.training.checkpoint_protocol import check_checkpoint_evaluation, protocol_of
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.generator_state import GeneratorState
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import LocalWorker
from tests.evaluation.tiny_inputs import TINY_FAR, TINY_XAR, TOKENIZER, random_generator, settings
from tests.evaluation.tiny_inputs import write_inputs as write_tiny_inputs

SCALING = ScalingConfig(num_workers=1, use_gpu=False, engine="torch", precision="fp32")
SCHEDULE = ScheduleConfig(global_batch_size=4, micro_batch_size=4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_inputs(tmp_path_factory.mktemp("inputs"))


def tokenizer_run(inputs: Path, **changes: Any) -> TokenizerRun:
    return TokenizerRun(
        name="mine",
        model=TOKENIZER,
        data=ImageDataConfig(validation_path=str(inputs / "validation")),
        schedule=SCHEDULE,
        scaling=SCALING,
        checkpoint_evaluation=CheckpointEvaluationConfig(
            every_steps=1, feature_size=32, batch_size=5, **changes
        ),
    )


def xar_run(inputs: Path) -> XARRun:
    return XARRun(
        name="mine",
        model=TINY_XAR,
        tokenizer_path=str(inputs / "tokenizer"),
        data=CodeDataConfig(train_path=str(inputs / "codes")),
        schedule=SCHEDULE,
        scaling=SCALING,
        checkpoint_evaluation=XARCheckpointsConfig(
            every_steps=1,
            data_path=str(inputs / "validation"),
            num_images=6,
            feature_size=32,
            batch_size=4,
            sampler=FlowSamplerConfig(num_steps=2),
        ),
    )


def checkpoint(folder: Path, step: int = 3) -> Path:
    place = folder / "checkpoints" / f"step-{step:09d}"
    place.mkdir(parents=True)
    return place


def tokenizer_checkpoint(folder: Path) -> Path:
    place = checkpoint(folder)
    torch.manual_seed(5)
    GloTokTokenizer(TOKENIZER).save_pretrained(place)
    (place / "optimizer.pt").write_bytes(b"much")
    artefact.write_manifest(place, "checkpoint", step=3)
    return place


def generator_checkpoint(
    folder: Path, inputs: Path, *, averaged: bool = True, facts: dict[str, Any] | None = None
) -> Path:
    """As a training writes it, of weights whose average differs."""
    engine = TorchEngine(random_generator("xar", seed=1), OptimizerConfig(), 1)
    average = ExponentialMovingAverage(engine, 0.5) if averaged else None
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.add_(0.1)
    place = checkpoint(folder)
    GeneratorState(engine, average, LocalWorker(), facts).snapshot(copies := Snapshot())
    copies.write(place)
    artefact.write_manifest(place, "checkpoint", step=3)
    return place


def generator_facts(inputs: Path) -> dict[str, Any]:
    facts = artefact.read_json(inputs / "xar" / "generator.json")
    return facts | {"latent_scale": [2.0] * TINY_XAR.channels}


def test_a_tokenizers_checkpoint_has_the_numbers_of_the_evaluation_job(inputs, tmp_path):
    config = tokenizer_run(inputs)
    found = CheckpointMeasurement(config, tmp_path)(tokenizer_checkpoint(tmp_path))
    assert found is not None
    assert found.step == 3
    wanted = settings(inputs, tmp_path, tokenizer_path=str(found.weights))
    wanted = override(wanted, {"samples_path": "", "codes_path": "", "training_path": ""})
    wanted = override(wanted, {"generator_path": ""})
    blocks, side = plan(wanted)
    measure = BlockMeasurement(
        wanted, build_extractors(wanted, torch.device("cpu")), image_size=side
    )
    scores = torch.cat([torch.tensor(measure([block])[0].arrays["psnr"]) for block in blocks])
    assert found.metrics["reconstruction_psnr"]["value"] == pytest.approx(float(scores.mean()))
    assert {"reconstruction_ssim", "reconstruction_fd_effnet"} < found.metrics.keys()
    facts = found.metrics["reconstruction_fd_effnet"]["facts"]
    assert facts["num_images"] == facts["reference_images"] == 11
    assert (
        "The validation crops are crops of the data set"
        in (found.metrics["reconstruction_psnr"]["protocol"])
    )


def test_the_copy_is_a_tokenizer_for_other_jobs_without_the_optimizer(inputs, tmp_path):
    path = tokenizer_checkpoint(tmp_path)
    found = CheckpointMeasurement(tokenizer_run(inputs), tmp_path)(path)
    assert found is not None
    again, saved = load_tokenizer(found.weights), GloTokTokenizer.from_pretrained(path)
    assert all(
        torch.equal(value, saved.state_dict()[name]) for name, value in again.state_dict().items()
    )
    assert not (found.weights / "optimizer.pt").exists()
    assert [other.name for other in found.weights.parent.iterdir()] == [path.name]


def test_a_checkpoint_that_is_gone_is_none_and_a_damaged_one_is_refused(inputs, tmp_path):
    measure = CheckpointMeasurement(tokenizer_run(inputs), tmp_path)
    path = tokenizer_checkpoint(tmp_path)
    weights = path / "tokenizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"tokenizer.safetensors: differs from its sha256"):
        measure(path)
    weights.unlink()
    assert measure(path) is None
    shutil.rmtree(path)
    assert measure(path) is None


def test_a_checkpoint_that_is_removed_when_its_weights_are_copied_is_measured(
    inputs, tmp_path, monkeypatch
):
    path = tokenizer_checkpoint(tmp_path)
    last = checkpoint_weights._OF_TOKENIZER[1]
    assert not (path / checkpoint_weights._OF_TOKENIZER[2]).exists()
    copy_file = checkpoint_weights.copy_file

    def copy_and_remove(source: Path, target: Path) -> None:
        copy_file(source, target)
        if source.name == last:  # as the writer of the next checkpoint does
            shutil.rmtree(path)

    monkeypatch.setattr(checkpoint_weights, "copy_file", copy_and_remove)
    found = CheckpointMeasurement(tokenizer_run(inputs), tmp_path)(path)
    assert found is not None
    assert artefact.read_manifest(found.weights, "tokenizer")["step"] == 3
    assert not path.exists()


@pytest.mark.parametrize("averaged", [True, False])
def test_a_generators_checkpoint_draws_its_average_where_it_has_one(inputs, tmp_path, averaged):
    facts = generator_facts(inputs)
    path = generator_checkpoint(tmp_path, inputs, averaged=averaged, facts=facts)
    found = CheckpointMeasurement(xar_run(inputs), tmp_path)(path)
    assert found is not None
    assert {"samples_fd_effnet", "samples_own_class"} < found.metrics.keys()
    assert found.metrics["samples_fd_effnet"]["facts"]["num_images"] == 6
    model = load_generator(found.weights, use_ema=True)
    before = random_generator("xar", seed=1).state_dict()
    name = next(name for name, _ in model.named_parameters())
    shift = float((model.state_dict()[name] - before[name]).mean())
    assert shift == pytest.approx(0.0 if averaged else 0.1, abs=1e-6)
    assert torch.equal(model.state_dict()["latent_scale"], torch.full((8,), 2.0))
    # A folder that other jobs take: `sample_images` and `export_generator` read the same.
    artefact.read_manifest(found.weights, "generator")
    images = ImageGenerator.from_pretrained(found.weights).generate(
        [0], seed=0, sampler=FlowSamplerConfig(num_steps=2)
    )
    assert images.shape == (1, 16, 16, 3)


def test_the_crops_that_samples_are_compared_with_are_measured_once(inputs, tmp_path, monkeypatch):
    measure = CheckpointMeasurement(xar_run(inputs), tmp_path)
    path = generator_checkpoint(tmp_path, inputs, facts=generator_facts(inputs))
    first = measure(path)

    def refused(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(BlockMeasurement, "__call__", refused)
    again = measure(path)
    assert first is not None
    assert again is not None
    assert again.metrics == first.metrics


def test_a_generators_checkpoint_without_weights_says_why(inputs, tmp_path):
    path = generator_checkpoint(tmp_path, inputs)
    with pytest.raises(ArtefactError, match=r"holds no generator.json: it was written while"):
        CheckpointMeasurement(xar_run(inputs), tmp_path)(path)


def test_what_changes_the_numbers_changes_the_protocol(inputs):
    first = protocol_of(tokenizer_run(inputs))
    assert protocol_of(tokenizer_run(inputs, num_threads=2)) == first
    # More than there are, as before.
    assert protocol_of(tokenizer_run(inputs, num_images=9999)) == first
    assert protocol_of(tokenizer_run(inputs, num_images=9)) != first
    run = xar_run(inputs)
    guided = override(run, {"checkpoint_evaluation.sampler.guidance_scale": 1.5})
    assert protocol_of(guided) != protocol_of(run)


def test_what_cannot_be_evaluated_is_refused_before_the_training(inputs, tmp_path):
    check_checkpoint_evaluation(tokenizer_run(inputs))
    run = xar_run(inputs)
    check_checkpoint_evaluation(run)
    with pytest.raises(ValueError, match=r"checkpoint_evaluation.data_path is empty: give the"):
        check_checkpoint_evaluation(override(run, {"checkpoint_evaluation.data_path": ""}))
    with pytest.raises(ValueError, match=r"inception_path = .*: is no file"):
        check_checkpoint_evaluation(
            override(run, {"checkpoint_evaluation.inception_path": str(tmp_path / "none.pth")})
        )
    with pytest.raises(ArtefactError, match="holds no finished shards"):
        check_checkpoint_evaluation(
            override(run, {"checkpoint_evaluation.data_path": str(tmp_path)})
        )
    # Off, nothing is looked at.
    check_checkpoint_evaluation(override(run, {"checkpoint_evaluation": XARCheckpointsConfig()}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metric": "own_class"},
            "is not measured of this model; take one of fd_effnet, fid, psnr",
        ),
        ({"metric": "fid"}, "needs checkpoint_evaluation.inception_path"),
        ({"every_steps": -1}, "must not be negative"),
        ({"num_images": 0}, "must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CheckpointEvaluationConfig(**changes)


def test_a_generator_has_metrics_of_samples_alone_and_samples_averages():
    with pytest.raises(ValueError, match="take one of fd_effnet, fid, own_class"):
        FARRun(model=TINY_FAR, checkpoint_evaluation=FARCheckpointsConfig(metric="psnr"))
    with pytest.raises(ValueError, match=r"sampler.use_ema = False: must be on"):
        XARCheckpointsConfig(sampler=FlowSamplerConfig(use_ema=False))
