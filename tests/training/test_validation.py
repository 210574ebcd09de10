"""PSNR while training is PSNR of the evaluation job: the same pixels, no cap, identical images counted apart."""

import math

import numpy as np
import pytest
import torch
from small_tokenizer import MODEL, training_of
from torch import nn

from glotok_ray.config import (
    DiscriminatorConfig,
    OptimizerConfig,
    RelationConfig,
    TokenizerLossConfig,
    TokenizerRun,
)
from glotok_ray.data.pixel_range import pixels_to_model_range, to_uint8
from glotok_ray.metrics.reconstruction import psnr
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.perceptual import build_perceptual
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.tokenizer_step import FrozenNetworks
from glotok_ray.training.validation import TokenizerValidation, psnr_sum
from glotok_ray.training.worker import LocalWorker

WEIGHTS = TokenizerLossConfig(
    perceptual_network="efficientnet_lite0", relation=RelationConfig(num_bins=20)
)
PLAIN = OptimizerConfig()


def validation_of(images: torch.Tensor) -> tuple[TokenizerValidation, nn.Module]:
    torch.manual_seed(0)
    model = GloTokTokenizer(MODEL)
    critic = PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2))
    training = training_of(
        TokenizerRun(model=MODEL, loss=WEIGHTS),
        (TorchEngine(model, PLAIN, 1), TorchEngine(critic, PLAIN, 1)),
        FrozenNetworks(build_perceptual(WEIGHTS), None, {}),
        LocalWorker(),
        images,
    )
    return training.validation, model


def some_images(count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)


def test_psnr_is_the_evaluations_own() -> None:
    images = some_images(18)
    validation, model = validation_of(images)
    found = validation.evaluate()["psnr"]
    with torch.no_grad():
        decoded = model.eval()(pixels_to_model_range(images)).reconstruction
    scores = psnr(images.permute(0, 2, 3, 1).numpy(), to_uint8(decoded))
    assert found == pytest.approx(scores.mean())
    assert "psnr_identical" not in validation.evaluate()


def test_there_is_no_cap() -> None:
    """One level in one channel of one pixel: 83 dB at this size, where 78.1 dB used to be the most."""
    images = some_images(1)
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    total = psnr_sum(images, pixels_to_model_range(changed)).total
    assert total == pytest.approx(10 * math.log10(255**2 * 3 * 32 * 32))
    assert total > 78.2


def test_identical_images_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    images = some_images(3)
    validation, model = validation_of(images)
    others = images.clone()
    others[2] ^= 4

    def decode(result: torch.Tensor) -> None:
        def forward(pixels: torch.Tensor) -> object:
            return type("Output", (), {"reconstruction": pixels_to_model_range(result)})

        monkeypatch.setattr(model, "forward", forward)

    decode(others)
    metrics = validation.evaluate()
    scores = psnr(*(part[2:].permute(0, 2, 3, 1).numpy() for part in (images, others)))
    assert metrics["psnr"] == pytest.approx(scores[0])
    assert metrics["psnr_identical"] == 2
    decode(images)
    metrics = validation.evaluate()
    assert "psnr" not in metrics
    assert metrics["psnr_identical"] == 3


def test_a_reconstruction_that_is_not_finite_shows_as_nan() -> None:
    images = some_images(2)
    decoded = pixels_to_model_range(images)
    decoded[1, 0, 0, 0] = float("nan")
    assert np.isnan(psnr_sum(images, decoded).total)


def test_a_worker_without_images_measures_the_codebooks_alone() -> None:
    validation, _ = validation_of(some_images(0))
    assert set(validation.evaluate()) == {"visual_duplicates", "semantic_duplicates"}
