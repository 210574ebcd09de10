"""Sampling of RQ-Transformer: the draws of full passes, images apart from their batch, and images by RQ-VAE."""

import math

import pytest
import torch

from glotok_ray.config.samplers import TokenSamplerConfig
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.sampling.image_random import image_generator
from glotok_ray.sampling.residual_codes import sample_residual_codes
from glotok_ray.sampling.tokens import draw_codes, filter_logits
from tests.nn.test_rq_transformer import LABELS, TINY, build

CODEBOOK = torch.randn(17, 5, generator=torch.Generator().manual_seed(2))
SAMPLER = TokenSamplerConfig(guidance_scale=1.0, top_p=0.92, top_k=12, temperature=1.5)


def test_codes_are_those_of_full_passes_without_a_cache() -> None:
    model = build()
    found = sample_residual_codes(model, LABELS, SAMPLER, CODEBOOK, image_ids=[4, 5], seed=7)
    assert found.shape == (2, 3, 3, 3)
    assert len(found.unique()) > 5
    uniforms = torch.stack(
        [
            torch.rand(9, 3, generator=image_generator(7, index), dtype=torch.float64)
            for index in (4, 5)
        ]
    )
    codes = torch.zeros(2, 9, 3, dtype=torch.int64)
    for position in range(9):
        for depth in range(3):
            with torch.no_grad():
                logits = model(CODEBOOK[codes], LABELS)[:, position, depth]
            numbers = uniforms[:, position, depth]
            codes[:, position, depth] = draw_codes(filter_logits(logits, SAMPLER), numbers)
    assert torch.equal(found.flatten(1, 2), codes)


def test_an_image_does_not_depend_on_its_batch() -> None:
    model = build()
    whole = sample_residual_codes(model, LABELS, SAMPLER, CODEBOOK, image_ids=[1, 2], seed=0)
    alone = sample_residual_codes(model, LABELS[1:], SAMPLER, CODEBOOK, image_ids=[2], seed=0)
    assert torch.equal(whole[1:], alone)


def test_an_image_whose_logits_are_not_finite_has_no_codes() -> None:
    model = build()
    with torch.no_grad():
        model.class_embedding.weight[3] = math.nan
    found = sample_residual_codes(model, LABELS, SAMPLER, CODEBOOK, image_ids=[1, 2], seed=0)
    assert (found[1] == NO_CODE).all()
    assert (found[0] != NO_CODE).all()


def test_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"guidance_scale = 2\.0: must be 1"):
        sample_residual_codes(
            build(), LABELS, TokenSamplerConfig(), CODEBOOK, image_ids=[0, 1], seed=0
        )
    assert TINY.num_positions == 9
