"""The trunk is VQGAN's: sizes of the published models, and each block against its formula."""

import torch
from torch import nn
from torch.nn import functional as F

from glotok_ray.config import AdapterConfig, AutoencoderConfig
from glotok_ray.nn.adapter import Adapter
from glotok_ray.nn.autoencoder import PixelDecoder, PixelEncoder
from glotok_ray.nn.blocks import (
    Downsample,
    ResidualBlock,
    SpatialAttention,
    TransformerBlock,
    Upsample,
    positions_on_grid,
)

SMALL = AutoencoderConfig(
    image_size=32,
    base_channels=16,
    channel_multipliers=(1, 2, 2),
    latent_channels=24,
    norm_groups=8,
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_default_sizes_are_those_of_vqgan_f16():
    with torch.device("meta"):
        encoder, decoder = PixelEncoder(AutoencoderConfig()), PixelDecoder(AutoencoderConfig())
    assert count(encoder) == 29_298_176
    assert count(decoder) == 42_449_795
    assert count(encoder.middle) == count(decoder.middle) == 10_494_976


def test_default_shapes_at_256_pixels():
    with torch.device("meta"):
        encoder, decoder = PixelEncoder(AutoencoderConfig()), PixelDecoder(AutoencoderConfig())
        features = encoder.features(torch.empty(2, 3, 256, 256))
        latents = encoder.head(features)
        images = decoder(latents)
    assert features.shape == (2, 512, 16, 16)
    assert latents.shape == (2, 256, 16, 16)
    assert images.shape == (2, 3, 256, 256)


def test_attention_follows_every_block_of_the_lowest_resolution_only():
    encoder, decoder = PixelEncoder(SMALL), PixelDecoder(SMALL)
    assert [len(level.attentions) for level in encoder.levels] == [0, 0, 2]
    assert [len(level.attentions) for level in decoder.levels] == [3, 0, 0]


def test_encoder_forward_is_features_then_head():
    torch.manual_seed(0)
    encoder, images = PixelEncoder(SMALL), torch.randn(2, 3, 32, 32)
    assert encoder.features(images).shape == (2, 32, 8, 8)
    assert torch.equal(encoder(images), encoder.head(encoder.features(images)))


def test_decoder_forward_is_the_last_convolution_of_its_activations():
    torch.manual_seed(0)
    decoder, latents = PixelDecoder(SMALL), torch.randn(2, 24, 8, 8)
    activations = decoder.activations(latents)
    assert activations.shape == (2, 16, 32, 32)
    expected = F.conv2d(activations, decoder.conv_out.weight, decoder.conv_out.bias, padding=1)
    torch.testing.assert_close(decoder(latents), expected)


def test_residual_block_formula():
    torch.manual_seed(0)
    block, x = ResidualBlock(8, 16, 4, dropout=0.0), torch.randn(2, 8, 5, 5)

    def normalised(value: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
        groups = value.reshape(2, 4, -1)
        variance = groups.var(dim=2, unbiased=False, keepdim=True)
        groups = (groups - groups.mean(dim=2, keepdim=True)) / (variance + 1e-6).sqrt()
        scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
        y = groups.reshape(value.shape) * scale + shift
        return y * torch.sigmoid(y)

    y = F.conv2d(normalised(x, block.norm1), block.conv1.weight, block.conv1.bias, padding=1)
    y = F.conv2d(normalised(y, block.norm2), block.conv2.weight, block.conv2.bias, padding=1)
    expected = y + F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_spatial_attention_formula():
    torch.manual_seed(0)
    attention, x = SpatialAttention(8, 4), torch.randn(2, 8, 3, 5)
    normed = F.group_norm(x, 4, eps=1e-6)
    query, key, value = (
        F.conv2d(normed, layer.weight, layer.bias).flatten(2)
        for layer in (attention.query, attention.key, attention.value)
    )
    weights = torch.softmax(torch.einsum("bci,bcj->bij", query, key) * 8**-0.5, dim=2)
    mixed = torch.einsum("bij,bcj->bci", weights, value).reshape(2, 8, 3, 5)
    expected = x + F.conv2d(mixed, attention.projection.weight, attention.projection.bias)
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_downsampling_pads_right_and_bottom_only():
    down = Downsample(1)
    nn.init.ones_(down.conv.weight)
    nn.init.zeros_(down.conv.bias)
    sums = down(torch.ones(1, 1, 4, 4))
    assert sums.tolist() == [[[[9.0, 6.0], [6.0, 4.0]]]]


def test_upsampling_repeats_pixels_before_its_convolution():
    up = Upsample(1)
    nn.init.zeros_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    up.conv.weight.data[0, 0, 1, 1] = 1.0
    assert up(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1.0, 1.0, 2.0, 2.0]] * 2]]


def test_transformer_block_equals_torch_attention():
    torch.manual_seed(0)
    block, tokens = TransformerBlock(16, num_heads=4, mlp_ratio=2), torch.randn(2, 7, 16)
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    reference.in_proj_weight.data = block.query_key_value.weight.data
    reference.in_proj_bias.data = block.query_key_value.bias.data
    reference.out_proj.weight.data = block.projection.weight.data
    reference.out_proj.bias.data = block.projection.bias.data
    normed = F.layer_norm(tokens, (16,))
    attended = tokens + reference(normed, normed, normed, need_weights=False)[0]
    expected = attended + block.mlp(F.layer_norm(attended, (16,)))
    torch.testing.assert_close(block(tokens), expected, rtol=1e-4, atol=1e-5)


def test_adapter_has_fqgans_size_and_no_outer_skip():
    with torch.device("meta"):
        assert count(Adapter(AdapterConfig(), 512, 16)) == 19_047_424
    torch.manual_seed(0)
    features = Adapter(AdapterConfig(depth=1, num_heads=4), 16, 4)(torch.randn(2, 16, 4, 4) * 100)
    assert features.shape == (2, 16, 4, 4)
    # It ends in a LayerNorm, so every position has mean 0 over its channels.
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(2, 4, 4), rtol=0, atol=1e-5)


def test_adapter_tells_positions_apart():
    torch.manual_seed(0)
    adapter = Adapter(AdapterConfig(depth=1, num_heads=4), 16, 4)
    same_everywhere = adapter(torch.randn(1, 16, 1, 1).expand(1, 16, 4, 4))
    assert not torch.allclose(same_everywhere[..., 0, 0], same_everywhere[..., 0, 1], atol=1e-2)


def test_adapter_resamples_its_positions_on_another_grid():
    torch.manual_seed(0)
    adapter = Adapter(AdapterConfig(depth=1, num_heads=4), 16, 4)
    assert adapter(torch.zeros(1, 16, 5, 4)).shape == (1, 16, 5, 4)
    table = torch.arange(16.0).reshape(16, 1)  # rises by 4 per row and by 1 per column
    assert positions_on_grid(table, 4, 4) is table
    larger = positions_on_grid(table, 8, 8).reshape(8, 8)
    torch.testing.assert_close(larger[2:6, 4] - larger[2:6, 3], torch.full((4,), 0.5))
    torch.testing.assert_close(larger[4, 2:6] - larger[3, 2:6], torch.full((4,), 2.0))


def test_channels_last_gives_the_same_values_and_layout():
    torch.manual_seed(0)
    encoder, images = PixelEncoder(SMALL), torch.randn(2, 3, 32, 32)
    expected = encoder(images)
    last = encoder.to(memory_format=torch.channels_last)
    result = last(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert result.is_contiguous(memory_format=torch.channels_last)
