"""Open-MAGVIT2 gives what its own code gives, under weights made from the released names alone."""

import pytest
import torch
from torch import Tensor

from glotok_ray.nn.tokenizer_protocol import Tokenizer
from glotok_ray.peers.look_up import bits_on_map, signs_on_map
from glotok_ray.peers.magvit_trunk import DepthToSpace
from glotok_ray.peers.open_magvit2 import SYSTEM, OpenMAGVIT2Tokenizer
from tests.peers.pseudo_weights import (
    GOLDEN,
    assert_codes_match,
    assert_tensor_matches,
    golden_images,
    parameter_shapes,
    pseudo_model,
    random_codes,
)


def test_open_magvit2() -> None:
    golden = GOLDEN["open_magvit2_256_262144"]
    config = SYSTEM.released["open_magvit2_256"].config
    model = pseudo_model(SYSTEM, config, parameter_shapes("open_magvit2_256_262144"))
    assert isinstance(model, OpenMAGVIT2Tokenizer)
    assert isinstance(model, Tokenizer)
    assert (model.rate.num_indices, model.rate.bits) == (256, 256 * 18)
    images = golden_images(-1, 64)
    assert_tensor_matches(model.unquantized(images), golden["latent"])
    codes = model.encode(images)
    assert isinstance(codes, Tensor)
    assert_codes_match(codes, golden["indices"])
    assert_tensor_matches(model.decode(codes), golden["reconstruction"])
    (drawn,) = random_codes(262144, (1, 4, 4))
    assert_tensor_matches(model.decode(drawn), golden["decode_of_random_indices"]["out"])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("open_magvit2_pretrain_16384", 115_094_033), ("open_magvit2_128", 112_021_653)],
)
def test_the_other_files_have_as_many_parameters_as_published(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = SYSTEM.tokenizer(SYSTEM.released[name].config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_first_channel_is_the_least_significant_bit() -> None:
    z = torch.tensor([0.5, 0.0, 2.0]).view(1, 3, 1, 1)
    codes = bits_on_map(z)
    assert codes.flatten().tolist() == [0b101]
    assert signs_on_map(codes, 3).flatten().tolist() == [1, -1, 1]


def test_depth_to_space_takes_whole_quarters_of_the_channels() -> None:
    layer = DepthToSpace(2)
    layer.conv = torch.nn.Identity()  # type: ignore[assignment]
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert layer(x).flatten(2).tolist() == [[[0, 2, 4, 6], [1, 3, 5, 7]]]
