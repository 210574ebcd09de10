"""The systems around VQGAN's trunk give what their own code gives, under weights made from the released names alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from glotok_ray.nn.tokenizer_protocol import Tokenizer, grids_of
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.ibq import SYSTEM as IBQ
from glotok_ray.peers.ibq import IBQConfig
from glotok_ray.peers.rq_vae import SYSTEM as RQ_VAE
from glotok_ray.peers.rq_vae import RQVAEConfig, RQVAETokenizer
from glotok_ray.peers.var import SYSTEM as VAR
from glotok_ray.peers.var import VARConfig, VARTokenizer
from glotok_ray.peers.vqgan_lc import SYSTEM as VQGAN_LC
from glotok_ray.peers.vqgan_lc import VQGANLCConfig, VQGANLCTokenizer
from tests.peers.pseudo_weights import (
    GOLDEN,
    assert_codes_match,
    assert_tensor_matches,
    golden_images,
    model_of,
    parameter_shapes,
    pseudo_model,
    pseudo_weights,
    random_codes,
)


def _assert_protocol(model: PeerTokenizer, num_indices: int, bits: float) -> None:
    assert isinstance(model, Tokenizer)
    assert model.rate.num_indices == num_indices
    assert model.rate.bits == pytest.approx(bits)


def _assert_single_grid(model: Any, golden: dict[str, Any], num_codes: int) -> None:
    images = golden_images(-1, 64)
    latent = model.unquantized(images)
    assert_tensor_matches(latent, golden["latent"])
    codes = model.encode(images)
    assert_codes_match(codes, golden["indices"])
    assert_tensor_matches(model.decode(codes), golden["reconstruction"])
    (drawn,) = random_codes(num_codes, (1, 4, 4))
    assert_tensor_matches(model.decode(drawn), golden["decode_of_random_indices"]["out"])


def test_ibq() -> None:
    model = pseudo_model(IBQ, IBQConfig(), parameter_shapes("ibq_16384"))
    _assert_protocol(model, 256, 256 * 14)
    _assert_single_grid(model, GOLDEN["ibq_16384"], 16384)


def test_the_larger_ibq_differs_by_the_rows_of_its_codebook() -> None:
    config = IBQ.released["ibq_262144"].config
    with torch.device("meta"):
        model = IBQ.tokenizer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 173_896_579
    _assert_protocol(model, 256, 256 * 18)


def test_vqgan_lc() -> None:
    shapes = parameter_shapes("vqgan_lc_100k_f16") | {"tok_embeddings.weight": (2000, 768)}
    golden = GOLDEN["vqgan_lc_f16_2000codes"]
    model = pseudo_model(VQGAN_LC, VQGANLCConfig(num_codes=2000), shapes)
    assert isinstance(model, VQGANLCTokenizer)
    assert_tensor_matches(model.codebook(), golden["projected_codebook"])
    _assert_single_grid(model, golden, 2000)


def test_rq_vae() -> None:
    golden = GOLDEN["rqvae_imagenet_8x8x4_16384"]
    copies = [f"quantizer.codebooks.{place}.weight" for place in (1, 2, 3)]
    shapes = parameter_shapes("rqvae_imagenet_8x8x4_16384")
    tensors = pseudo_weights({name: shape for name, shape in shapes.items() if name not in copies})
    tensors |= dict.fromkeys(copies, tensors["quantizer.codebooks.0.weight"])
    model = model_of(RQ_VAE, RQVAEConfig(), tensors)
    assert isinstance(model, RQVAETokenizer)
    assert sum(parameter.numel() for parameter in model.parameters()) == 104_402_051 - 256
    _assert_protocol(model, 256, 256 * 14)
    latent = model.unquantized(golden_images(-1, 64))
    assert_tensor_matches(_channels_last(latent), golden["latent_BHWC"])
    codes = model.encode(golden_images(-1, 64))
    assert isinstance(codes, Tensor)
    assert_codes_match(codes, golden["codes_BHWD"])
    assert_tensor_matches(_channels_last(model.latents(codes)), golden["quantised_BHWC"])
    decoded = golden["decode_of_random_indices"]
    (drawn,) = random_codes(16384, (1, 8, 8, 4))
    assert_tensor_matches(_channels_last(model.latents(drawn)), decoded["z_q_BHWC"])
    assert_tensor_matches(model.decode(drawn), decoded["out"])


def test_an_rq_vae_whose_depths_have_codebooks_of_their_own_is_refused() -> None:
    first = torch.zeros(9, 2)
    tensors = {"quantizer.codebooks.0.weight": first, "quantizer.codebooks.1.weight": first + 1}
    with pytest.raises(ValueError, match=r"codebooks\.1\.weight differs from"):
        RQ_VAE.prepare(tensors, RQVAEConfig(num_codes=8))


def test_var() -> None:
    golden = GOLDEN["var_vae_ch160v4096z32"]
    model = pseudo_model(VAR, VARConfig(), parameter_shapes("var_vqvae_ch160v4096z32"))
    assert isinstance(model, VARTokenizer)
    assert sum(parameter.numel() for parameter in model.parameters()) == 108_948_355
    _assert_protocol(model, 680, 680 * 12)
    latent = model.unquantized(golden_images(-1, 256))
    assert_tensor_matches(latent, golden["latent_after_quant_conv"])
    codes = model.find(latent)
    flat = torch.cat([part.flatten() for part in grids_of(codes, model.rate)])
    assert_codes_match(flat, golden["indices_all_scales_concatenated"])
    assert_tensor_matches(model.latents(codes), golden["f_hat"])
    decoded = golden["decode_of_random_indices"]
    drawn = random_codes(4096, *[(1, side, side) for side in model.config.sides])
    assert_tensor_matches(model.latents(tuple(drawn)), decoded["f_hat"])
    assert_tensor_matches(model.decode(tuple(drawn)), decoded["out_before_clamp"])


def test_var_at_512_pixels_has_the_same_tensors_and_other_scales() -> None:
    with torch.device("meta"):
        small, large = (VAR.tokenizer(VAR.released[name].config) for name in ("var_256", "var_512"))
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in large.state_dict().items()
    }
    assert large.rate.num_indices == 2240
    assert large.config.sides[-1] == large.config.autoencoder.grid_size


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()
