"""The whole tokenizer: sizes, the order of the halves, tokens and back, and where gradients go."""

import dataclasses

import pytest
import torch

from glotok_ray.config import (
    AdapterConfig,
    CodebookConfig,
    ContrastConfig,
    ResidualConfig,
    TokenizerConfig,
)
from glotok_ray.losses.residual import residual_loss
from glotok_ray.nn.recompute import recompute_activations
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage.artefact import ArtefactError
from tests.small_models import tiny_tokenizer

SMALL = tiny_tokenizer(
    CodebookConfig(name="visual", size=40, width=6),
    CodebookConfig(name="semantic", size=24, width=4),
    image_size=32,
    channel_multipliers=(1, 2),
    latent_channels=16,
)


def tokenizer(config: TokenizerConfig = SMALL) -> GloTokTokenizer:
    torch.manual_seed(0)
    model = GloTokTokenizer(config)
    for branch in model.branches.values():
        if branch.residual is not None:  # as after training: not the identity any more
            torch.nn.init.normal_(branch.residual.contract.weight, std=0.1)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.mark.parametrize(
    ("semantic", "visual", "total"), [(4096, 12288, 111_163_283), (16384, 16384, 111_294_355)]
)
def test_default_sizes_are_fqgans_plus_the_residual_predictors(semantic, visual, total):
    sizes = {"visual": visual, "semantic": semantic}
    config = TokenizerConfig(
        codebooks=tuple(CodebookConfig(name=name, size=size) for name, size in sizes.items())
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
    assert (
        output.branches["semantic"].indices.shape
        == output.branches["visual"].indices.shape
        == (2, 16, 16)
    )
    assert output.branches["semantic"].refined.shape == (2, 8, 16, 16)


def test_tokens_decode_to_the_reconstruction(images):
    model = tokenizer()
    output, codes = model(images), model.encode(images)
    assert torch.equal(codes[:, 1], output.branches["semantic"].indices)
    assert torch.equal(codes[:, 0], output.branches["visual"].indices)
    torch.testing.assert_close(model.decode(codes), output.reconstruction)
    refined = model.latents(codes, refine=True)
    torch.testing.assert_close(model.decode_latents(refined, refine=False), output.reconstruction)
    bare = model.decode_latents(model.latents(codes, refine=False), refine=False)
    assert not torch.allclose(bare, output.reconstruction, atol=1e-3)


def test_latents_hold_the_visual_half_first(images):
    model = tokenizer()
    output = model(images)
    latents = model.latents(model.encode(images), refine=False)
    assert latents.shape == (2, 10, 16, 16)
    torch.testing.assert_close(latents[:, :6], output.branches["visual"].code_vectors)
    torch.testing.assert_close(latents[:, 6:], output.branches["semantic"].code_vectors)


def test_each_branch_has_its_own_head(images):
    model = tokenizer()
    before = model(images)
    torch.nn.init.normal_(model.branches["semantic"].head.conv.weight)
    changed_semantic = model(images)
    assert torch.equal(changed_semantic.branches["visual"].latent, before.branches["visual"].latent)
    assert not torch.equal(
        changed_semantic.branches["semantic"].latent, before.branches["semantic"].latent
    )
    torch.nn.init.normal_(model.encoder.head.conv.weight)
    changed_visual = model(images)
    assert torch.equal(
        changed_visual.branches["semantic"].latent, changed_semantic.branches["semantic"].latent
    )
    assert not torch.equal(
        changed_visual.branches["visual"].latent, before.branches["visual"].latent
    )


def test_snap_finds_codes_again_and_keeps_them():
    model = tokenizer()
    generator = torch.Generator().manual_seed(2)
    grids = [torch.randint(size, (2, 16, 16), generator=generator) for size in (40, 24)]
    codes = torch.stack(grids, dim=1)
    latents = model.latents(codes, refine=False)
    noisy = 1.7 * latents + 0.01 * torch.randn(latents.shape, generator=generator)
    torch.testing.assert_close(model.snap(noisy), latents)


def test_every_parameter_learns(images):
    model = tokenizer()
    output = model(images)
    loss = output.reconstruction.square().mean()
    for branch in output.branches.values():
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
    assert model.quantizer("semantic").codebook.grad is None
    assert model.quantizer("visual").codebook.grad is None


def test_l_res_reaches_the_predictors_and_through_their_input_the_encoder(images):
    model = tokenizer()
    loss = 0
    for branch in model(images).branches.values():
        loss = loss + residual_loss(branch.latent, branch.code_vectors, branch.residual)
    loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    predictors = {name for name, _ in model.named_parameters() if ".residual." in name}
    assert predictors <= learned
    assert not any(name.startswith("decoder") or "quantizer" in name for name in learned)
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0
    # At the start of a training, where the last layer is zero, nothing of it reaches the encoder.
    torch.manual_seed(0)
    start = GloTokTokenizer(SMALL)
    for branch in start(images).branches.values():
        residual_loss(branch.latent, branch.code_vectors, branch.residual).backward(
            retain_graph=True
        )
    assert start.encoder.conv_in.weight.grad.abs().sum() == 0


def test_residual_learning_can_be_off(images):
    model = tokenizer(dataclasses.replace(SMALL, residual=ResidualConfig(enabled=False)))
    output = model(images)
    assert "semantic_residual" not in model.module_parameters()
    assert float(output.branches["semantic"].residual.abs().sum()) == 0
    assert torch.equal(output.branches["visual"].refined, output.branches["visual"].quantized)
    torch.testing.assert_close(model.decode(model.encode(images)), output.reconstruction)


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
    assert half.branches["semantic"].latent.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = tokenizer()(images)
    assert mixed.branches["semantic"].refined.dtype == torch.float32
    assert torch.isfinite(mixed.reconstruction).all()


def test_other_sizes_resample_the_positions_and_odd_ones_are_refused(images):
    model = tokenizer().eval()
    wide = torch.nn.functional.interpolate(images, size=(32, 48))
    codes = model.encode(wide)
    assert codes.shape == (2, 2, 16, 24)
    assert model.decode(codes).shape == wide.shape
    torch.testing.assert_close(model.decode(codes), model(wide).reconstruction)
    with pytest.raises(ValueError, match=r"32 x 33 pixels: both sides must be multiples of 2"):
        model.encode(torch.zeros(1, 3, 32, 33))


def test_one_image_is_served_as_a_batch_of_one(images):
    model = tokenizer().eval()
    one = model.encode(images[0])
    assert torch.equal(one, model.encode(images)[0])
    torch.testing.assert_close(model.decode(one), model.decode(one.unsqueeze(0))[0])
    assert model.reconstruct(images[0]).abs().max() <= 1


def test_a_saved_tokenizer_comes_back(images, tmp_path):
    model = tokenizer().eval()
    model.save_pretrained(tmp_path, source="here")
    again = GloTokTokenizer.from_pretrained(tmp_path)
    assert again.config == SMALL
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(again.encode(images), model.encode(images))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"config\.json: holds no model section"):
        GloTokTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("names", [("visual",), ("visual", "semantic_mid", "semantic_high")])
def test_one_and_three_codebooks_are_configs(images, names):
    books = tuple(
        CodebookConfig(name=name, size=12 + place, width=4) for place, name in enumerate(names)
    )
    model = tokenizer(
        dataclasses.replace(SMALL, codebooks=books, adapter=AdapterConfig(depth=0))
    ).eval()
    output, codes = model(images), model.encode(images)
    assert tuple(output.branches) == names
    assert codes.shape == (2, len(names), 16, 16)
    torch.testing.assert_close(model.decode(codes), output.reconstruction)
    assert all(branch.adapter is None for branch in model.branches.values())
    assert [name for name, branch in model.branches.items() if branch.head is None] == ["visual"]


def test_a_contrast_head_predicts_in_training_alone(images):
    contrast = ContrastConfig(network="efficientnet_lite0", width=16, depth=1, num_heads=2)
    books = (CodebookConfig(name="visual"), CodebookConfig(name="semantic", contrast=contrast))
    model = tokenizer(dataclasses.replace(SMALL, codebooks=books))
    output = model(images)
    assert output.branches["visual"].prediction is None
    prediction = output.branches["semantic"].prediction
    assert prediction.shape == (2, 16)
    gradient = torch.autograd.grad(prediction.square().sum(), model.encoder.conv_in.weight)[0]
    assert gradient.abs().sum() > 0
    assert model.eval()(images).branches["semantic"].prediction is None


def test_recomputed_activations_change_no_gradient(images):
    plain, thrifty = tokenizer(), tokenizer()
    recompute_activations(thrifty)
    for model in (plain, thrifty):
        model(images).reconstruction.square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, msg=name)
