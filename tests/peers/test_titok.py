"""TiTok under pseudo-weights: S-128 gives the numbers of its own code."""

import pytest
import torch
from torch.nn import functional as F

from glotok_ray.peers import titok
from glotok_ray.peers.titok import TiTok, TiTokConfig
from tests.peers.pseudo_weights import (
    GOLDEN,
    assert_codes_match,
    assert_tensor_matches,
    golden_images,
    pseudo_model,
    random_codes,
    released_shapes,
)

S128 = GOLDEN["titok_s128"]
SMALL = TiTokConfig(image_size=32, width=32, depth=1, num_heads=2, num_latents=5, num_codes=11)


@pytest.fixture(scope="module")
def s128() -> TiTok:
    model = pseudo_model(titok.SYSTEM, TiTokConfig(), released_shapes("titok_s128"))
    assert isinstance(model, TiTok)
    return model


def small_model() -> TiTok:
    model = TiTok(SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_the_encoder_gives_the_golden_codes(s128: TiTok) -> None:
    images = golden_images(0, 256)
    with torch.no_grad():
        assert_tensor_matches(s128.encoder(images), S128["latent_BxCx1xN"])
    assert_codes_match(s128.encode(2 * images - 1), S128["indices"])


def test_the_decoder_gives_the_golden_images(s128: TiTok) -> None:
    golden = S128["decode_of_random_indices"]
    (codes,) = random_codes(4096, (1, 128))
    with torch.no_grad():
        logits = s128.logits(codes)
        assert_tensor_matches(logits, golden["decoder_logits_Bx1024x16x16"])
        assert_tensor_matches(s128.pixels(logits), golden["out"])


def test_images_are_in_both_ranges_in_the_right_places() -> None:
    model, images = small_model(), torch.rand(2, 3, 32, 32)
    codes = model.encode(2 * images - 1)
    assert torch.equal(codes, model.find(model.encoder(images)))
    assert torch.equal(model.decode(codes), 2 * model.pixels(model.logits(codes)) - 1)
    assert model.reconstruct(2 * images - 1).shape == images.shape


def test_the_length_of_a_code_does_not_matter() -> None:
    model, codes = small_model(), torch.arange(10).view(2, 5)
    before = model.decode(codes)
    model.codebook.data = 3 * model.codebook.data
    assert torch.allclose(model.decode(codes), before, atol=1e-5)
    directions = F.normalize(model.codebook[codes], dim=2).transpose(1, 2).unsqueeze(2)
    assert torch.equal(model.find(7 * directions), codes)


@pytest.mark.parametrize(
    ("name", "bits", "parameters"),
    [
        ("titok_s128", 1536, 83_674_639),
        ("titok_b64", 768, 204_814_095),
        ("titok_l32", 384, 641_054_735),
    ],
)
def test_what_an_image_costs_and_how_large_the_model_is(
    name: str, bits: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = TiTok(titok.SYSTEM.released[name].config)
    assert model.rate.bits == bits
    assert sum(model.module_parameters().values()) == parameters


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_heads = 3: must divide width = 512"):
        TiTokConfig(num_heads=3)
    with pytest.raises(ValueError, match=r"image_size = 250: must be a multiple of 16"):
        TiTokConfig(image_size=250)
    with pytest.raises(ValueError, match=r"64 x 64 pixels: both sides must be 32"):
        small_model().encode(torch.zeros(1, 3, 64, 64))
