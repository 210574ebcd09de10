"""Trunk G under pseudo-weights: MaskBit, VQGAN+ and MaskGIT give the numbers of their own code."""

import pytest
import torch
from torch import Tensor

from glotok_ray.nn.tokenizer_protocol import Tokenizer
from glotok_ray.peers import maskbit, vqgan_plus
from glotok_ray.peers.maskbit import MaskBitConfig
from glotok_ray.peers.maskgit_trunk import MaskGITBlock
from glotok_ray.peers.released import System
from tests.peers.pseudo_weights import (
    GOLDEN,
    assert_codes_match,
    assert_tensor_matches,
    golden_images,
    pseudo_model,
    random_codes,
    released_buffers,
    released_shapes,
)

SYSTEMS = {
    "maskbit_tokenizer_14bit": (maskbit.SYSTEM, "maskbit_14bit"),
    "vqgan_plus_12bit": (vqgan_plus.SYSTEM, "vqgan_plus_12bit"),
    "maskgit_vqgan_1024": (vqgan_plus.SYSTEM, "maskgit_vqgan"),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_golden_numbers(name: str) -> None:
    system, released = SYSTEMS[name]
    golden, buffers = GOLDEN[name], released_buffers(name)
    shapes = {key: shape for key, shape in released_shapes(name).items() if key not in buffers}
    model = pseudo_model(system, system.released[released].config, shapes)
    images = golden_images(0, 64)
    assert_tensor_matches(model.encoder(images), golden["latent"])
    codes = model.encode(2 * images - 1)
    assert_codes_match(codes, golden["indices"])
    assert_tensor_matches(_in_unit_range(model, codes), golden["reconstruction"])
    num_codes = model.rate.grids[0].num_codes
    (drawn,) = random_codes(num_codes, (1, 16))
    expected = golden["decode_of_random_indices"]["out"]
    assert_tensor_matches(_in_unit_range(model, drawn.view(1, 4, 4)), expected)


def _in_unit_range(model: Tokenizer, codes: Tensor) -> Tensor:
    return model.decode(codes) / 2 + 0.5


@pytest.mark.parametrize(
    ("system", "name", "bits", "parameters"),
    [
        (maskbit.SYSTEM, "maskbit_10bit", 10, 54_469_005),
        (maskbit.SYSTEM, "maskbit_12bit", 12, 54_479_247),
        (maskbit.SYSTEM, "maskbit_14bit", 14, 54_489_489),
        (maskbit.SYSTEM, "maskbit_16bit", 16, 54_499_731),
        (maskbit.SYSTEM, "maskbit_18bit", 18, 54_509_973),
        (vqgan_plus.SYSTEM, "vqgan_plus_10bit", 10, 55_990_915),
        (vqgan_plus.SYSTEM, "vqgan_plus_12bit", 12, 55_007_683),
        (vqgan_plus.SYSTEM, "maskgit_vqgan", 10, 54_515_587),
    ],
)
def test_what_an_image_costs_and_how_large_the_model_is(
    system: System, name: str, bits: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = system.tokenizer(system.released[name].config)
    assert (model.rate.num_indices, model.rate.bits) == (256, 256 * bits)
    assert sum(model.module_parameters().values()) == parameters


def test_blocks_that_change_the_channels_have_no_skip() -> None:
    block = MaskGITBlock(32, 64)
    torch.nn.init.zeros_(block.conv2.weight)
    assert not block(torch.randn(1, 32, 4, 4)).any()


def test_bits_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_bits = 40: must be from 1 to 32"):
        MaskBitConfig(num_bits=40)
