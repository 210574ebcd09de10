"""The whole tokenizer: sizes, the order of the halves, tokens and back, and where gradients go."""

import dataclasses

import pytest
import torch

from glotok_ray.config import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    ResidualConfig,
    TokenizerConfig,
)
from glotok_ray.nn.tokenizer import GloTokTokenizer, TokenCodes

SMALL = TokenizerConfig(
    autoencoder=AutoencoderConfig(
        image_size=32,
        base_channels=16,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        latent_channels=16,
        norm_groups=8,
    ),
    adapter=AdapterConfig(depth=1, num_heads=4, mlp_ratio=2),
    semantic=CodebookConfig(size=24, width=4),
    visual=CodebookConfig(size=40, width=6),
    residual=ResidualConfig(width=16, num_heads=4, mlp_ratio=2),
)


def tokenizer(config: TokenizerConfig = SMALL) -> GloTokTokenizer:
    torch.manual_seed(0)
    model = GloTokTokenizer(config)
    for predictor in (model.semantic_residual, model.visual_residual):
        if predictor is not None:  # as after training: not the identity any more
            torch.nn.init.normal_(predictor.contract.weight, std=0.1)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.mark.parametrize(
    ("semantic", "visual", "total"), [(4096, 12288, 111_163_283), (16384, 16384, 111_294_355)]
)
def test_default_sizes_are_fqgans_plus_the_residual_predictors(semantic, visual, total):
    config = TokenizerConfig(
        semantic=CodebookConfig(size=semantic), visual=CodebookConfig(size=visual)
    )
    with torch.device("meta"):
        model = GloTokTokenizer(config)
    parts = model.module_parameters()
    assert sum(parts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(parts.values()) - parts["semantic_residual"] - parts["visual_residual"] == total


def test_default_shapes_at_256_pixels():
    with torch.device("meta"):
        output = GloTokTokenizer(TokenizerConfig())(torch.empty(2, 3, 256, 256))
    assert output.reconstruction.shape == (2, 3, 256, 256)
    assert output.last_layer_input.shape == (2, 128, 256, 256)
    assert output.semantic.indices.shape == output.visual.indices.shape == (2, 16, 16)
    assert output.semantic.refined.shape == (2, 8, 16, 16)


def test_tokens_decode_to_the_reconstruction(images):
    model = tokenizer()
    output, codes = model(images), model.encode(images)
    assert torch.equal(codes.semantic, output.semantic.indices)
    assert torch.equal(codes.visual, output.visual.indices)
    torch.testing.assert_close(model.decode_codes(codes), output.reconstruction)
    refined = model.latents(codes, refine=True)
    torch.testing.assert_close(model.decode(refined, refine=False), output.reconstruction)
    bare = model.decode(model.latents(codes, refine=False), refine=False)
    assert not torch.allclose(bare, output.reconstruction, atol=1e-3)


def test_latents_hold_the_visual_half_first(images):
    model = tokenizer()
    output = model(images)
    latents = model.latents(model.encode(images), refine=False)
    assert latents.shape == (2, 10, 16, 16)
    torch.testing.assert_close(latents[:, :6], output.visual.code_vectors)
    torch.testing.assert_close(latents[:, 6:], output.semantic.code_vectors)


def test_each_branch_has_its_own_head(images):
    model = tokenizer()
    before = model(images)
    torch.nn.init.normal_(model.semantic_head.conv.weight)
    changed_semantic = model(images)
    assert torch.equal(changed_semantic.visual.latent, before.visual.latent)
    assert not torch.equal(changed_semantic.semantic.latent, before.semantic.latent)
    torch.nn.init.normal_(model.encoder.head.conv.weight)
    changed_visual = model(images)
    assert torch.equal(changed_visual.semantic.latent, changed_semantic.semantic.latent)
    assert not torch.equal(changed_visual.visual.latent, before.visual.latent)


def test_snap_finds_codes_again_and_keeps_them():
    model = tokenizer()
    generator = torch.Generator().manual_seed(2)
    codes = TokenCodes(
        torch.randint(24, (2, 16, 16), generator=generator),
        torch.randint(40, (2, 16, 16), generator=generator),
    )
    latents = model.latents(codes, refine=False)
    noisy = 1.7 * latents + 0.01 * torch.randn(latents.shape, generator=generator)
    torch.testing.assert_close(model.snap(noisy), latents)


def test_every_parameter_learns(images):
    model = tokenizer()
    output = model(images)
    loss = output.reconstruction.square().mean()
    for branch in (output.semantic, output.visual):
        loss = loss + (branch.code_vectors - branch.latent.detach()).square().mean()
    loss.backward()
    silent = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert silent == []


def test_reconstruction_reaches_the_encoder_but_not_the_codebooks(images):
    model = tokenizer()
    model(images).reconstruction.square().mean().backward()
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0
    assert model.semantic_quantizer.codebook.grad is None
    assert model.visual_quantizer.codebook.grad is None


def test_residual_learning_can_be_off(images):
    model = tokenizer(dataclasses.replace(SMALL, residual=ResidualConfig(enabled=False)))
    output = model(images)
    assert "semantic_residual" not in model.module_parameters()
    assert float(output.semantic.residual.abs().sum()) == 0
    assert torch.equal(output.visual.refined, output.visual.quantized)
    torch.testing.assert_close(model.decode_codes(model.encode(images)), output.reconstruction)


def test_last_layer_writes_the_reconstruction(images):
    model = tokenizer()
    output = model(images)
    assert model.decoder_last_layer is model.decoder.conv_out
    assert torch.equal(model.decoder_last_layer(output.last_layer_input), output.reconstruction)


def test_channels_last_and_half_precision_run(images):
    model = tokenizer().to(memory_format=torch.channels_last)
    expected = tokenizer()(images).reconstruction
    torch.testing.assert_close(model(images).reconstruction, expected, rtol=1e-3, atol=1e-3)
    half = model.bfloat16()(images.bfloat16())
    assert half.reconstruction.dtype == torch.bfloat16
    assert half.semantic.latent.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = tokenizer()(images)
    assert mixed.semantic.refined.dtype == torch.float32
    assert torch.isfinite(mixed.reconstruction).all()


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"autoencoder\.image_size"):
        tokenizer()(torch.zeros(1, 3, 64, 64))
