"""A sweep with Inception's weights is judged by rFID: what a trial reports is that distance, and it decides."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glotok_ray.config import SweepRun, override
from glotok_ray.data.pixel_range import to_model_range, to_uint8
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.evaluation.features import POOLED, InceptionFeatures
from glotok_ray.metrics.frechet import frechet_distance_of_features
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.recipes.sweep_tokenizer import quickstart_reconstructions
from glotok_ray.recipes.train_tokenizer import quickstart
from glotok_ray.report.sweep_summary import ranked_trials
from glotok_ray.stages import sweep_tokenizer, tokenizer_trials
from glotok_ray.storage import artefact
from glotok_ray.training.trials import Trial, TrialRecord
from tests.small_models import tiny_tokenizer

IMAGES = 4
CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path) -> np.ndarray:
    """The images of the shards in "images"."""
    folder = tmp_path / "images"
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 4, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
    rows = [Row(str(key), encode_png(each), 0) for key, each in enumerate(pixels)]
    shard = write_shard(folder / "part-00000.parquet", rows)
    write_dataset(folder, classes=["a"], form="original", image_size=0, shards=[shard], details={})
    artefact.write_manifest(folder, "shards")
    return pixels


def sweep(folder: Path, inception: Path) -> SweepRun:
    """Of trainings of one step on four images, in this process."""
    tokenizer = {
        "output_path": str(folder / "trials"),
        "name": "trial_00",
        "launcher": "local",
        "model": tiny_tokenizer(image_size=32),
        "discriminator.base_channels": 8,
        "loss.relation_weight": 0.0,
        "teacher_path": "",
        "data.train_path": str(folder / "images"),
        "data.validation_path": "",
        "data.num_train_images": IMAGES,
        "schedule.global_batch_size": IMAGES,
        "schedule.micro_batch_size": IMAGES,
        "schedule.epochs": 1,
        "scaling.num_workers": 1,
        "scaling.engine": "torch",
        "scaling.threads_per_worker": 1,
    }
    evaluation = {
        "data_path": str(folder / "images"),
        "num_images": IMAGES,
        "uniformity_repeats": 0,
        "feature_size": 64,
        "inception_path": str(inception),
    }
    return SweepRun(
        output_path=str(folder),
        max_steps=1,
        tokenizer=override(quickstart(), tokenizer),
        evaluation=override(quickstart_reconstructions(), evaluation),
    )


def test_a_trial_reports_rfid_of_its_reconstructions(
    tmp_path: Path, images: np.ndarray, inception_file: Path
) -> None:
    config = sweep(tmp_path, inception_file)
    found = tokenizer_trials.train_and_measure(config.tokenizer, config.evaluation, step=1)
    tokenizer = GloTokTokenizer.from_pretrained(tmp_path / "trials" / "trial_00")
    with torch.no_grad():
        decoded = to_uint8(tokenizer.reconstruct(to_model_range(images, CPU)))
    inception = InceptionFeatures.load(str(inception_file), device=CPU)
    features = [inception(each)[POOLED] for each in (decoded, images)]
    assert found["fid"] == pytest.approx(frechet_distance_of_features(*features), rel=1e-4)
    assert found["fid"] > 0.1


def record(name: str, **metrics: float) -> TrialRecord:
    reports = [{"step": 1, "unix_s": 1.0, "psnr": 20.0, "cosine_distance": 0.1, **metrics}]
    return TrialRecord(Trial(name, {}), {}, reports, "finished", "", 1)


def test_rfid_decides_where_it_is_measured(tmp_path: Path) -> None:
    with_inception = sweep(tmp_path, tmp_path / "inception.pth")
    without = override(with_inception, {"evaluation.inception_path": ""})
    # By rFID the first is better, by FD-EffNet the second.
    records = [record("a", fid=30.0, fd_effnet=9.0), record("b", fid=40.0, fd_effnet=8.0)]
    for config, best in ((with_inception, "a"), (without, "b")):
        assert ranked_trials(config, records)[0].trial.name == best
    assert (with_inception.judged_by, with_inception.higher_is_better) == ("fid", False)
    assert sweep_tokenizer._described(with_inception, records[0]).startswith("a: rFID 30, PSNR 20")
    assert "rFID" not in sweep_tokenizer._described(without, records[0])
