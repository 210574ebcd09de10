"""TokenFlow under pseudo-weights gives the numbers of its own code."""

import pytest
import torch

from glotok_ray.config import AutoencoderConfig
from glotok_ray.nn.blocks import to_tokens
from glotok_ray.peers import tokenflow
from glotok_ray.peers.released import rename
from glotok_ray.peers.tokenflow import SIDES, TokenFlow, TokenFlowConfig
from tests.peers.pseudo_weights import (
    GOLDEN,
    assert_codes_match,
    assert_tensor_matches,
    golden_images,
    pseudo_model,
    random_codes,
    released_shapes,
)

NAME = "tokenflow_clipb_32k_enhanced"


@pytest.fixture(scope="module")
def model() -> TokenFlow:
    table = tokenflow.SYSTEM.names(TokenFlowConfig())
    # 21 million numbers of the semantic decoder are not drawn.
    shapes = {key: shape for key, shape in released_shapes(NAME).items() if rename(key, table)}
    found = pseudo_model(tokenflow.SYSTEM, TokenFlowConfig(), shapes)
    assert isinstance(found, TokenFlow)
    return found


def small_model() -> TokenFlow:
    trunk = AutoencoderConfig(base_channels=8, norm_groups=4, latent_channels=8)
    config = TokenFlowConfig(
        encoder=trunk, decoder=trunk, width=16, depth=1, num_heads=2, num_codes=17
    )
    small = TokenFlow(config)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return small.eval()


def test_the_encoder_gives_the_golden_codes(model: TokenFlow) -> None:
    golden, images = GOLDEN[NAME], golden_images(-1, 256)
    with torch.no_grad():
        tokens = model.semantic_encoder(images)
        assert_tensor_matches(tokens, golden["clip_patch_tokens"])
        latents = model.unquantized(images)
        assert_tensor_matches(to_tokens(latents[:, :32]), golden["semantic_32d"])
        assert_tensor_matches(latents[:, 32:], golden["pixel_latent_8d"])
        scales = model.find(latents)
        assert_codes_match(
            torch.cat([scale.flatten(1) for scale in scales], dim=1), golden["indices_all_scales"]
        )
        assert_tensor_matches(model.latents(scales), golden["quantised_40ch"])


def test_the_decoder_gives_the_golden_images(model: TokenFlow) -> None:
    golden = GOLDEN[NAME]["decode_of_random_indices"]
    drawn = random_codes(32_768, *((1, side * side) for side in SIDES))
    codes = tuple(part.unflatten(1, (side, side)) for part, side in zip(drawn, SIDES, strict=True))
    with torch.no_grad():
        maps = model.latents(codes)
        assert_tensor_matches(maps, golden["quant_sum_Bx40x16x16"])
        pixels = model.decode_latents(maps[:, :, :4, :4])
    expected = golden["pixel_decoder_on_top_left_4x4_of_last_8_channels_64x64"]
    assert_tensor_matches(pixels, expected)


def test_the_methods_of_the_protocol() -> None:
    model, images = small_model(), 2 * torch.rand(1, 3, 256, 256) - 1
    codes = model.encode(images)
    assert [tuple(part.shape) for part in codes] == [(1, side, side) for side in SIDES]
    assert torch.equal(model.reconstruct(images), model.decode(codes).clamp(-1, 1))
    assert model.rate.num_indices == 817


def test_another_grid_than_the_scales_end_with_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder.image_size = 224: must give 16 x 16 positions"):
        TokenFlowConfig(encoder=AutoencoderConfig(image_size=224))
