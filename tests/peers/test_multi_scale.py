"""Codes of all scales: closed forms of the loop, and what a quantizer of random numbers promises."""

import torch
from torch import Tensor
from torch.nn import functional as F

from glotok_ray.peers.multi_scale import (
    SMOOTHING_OF_SCALE,
    MultiScaleQuantizer,
    decode_scales,
    encode_scales,
    scale_grids,
    upsampled,
)

SIDES = (1, 1, 1, 2, 2, 2, 3, 3, 4, 4)


def whole_numbers(z: Tensor) -> Tensor:
    return z.squeeze(1).round().long()


def spread(indices: Tensor, scale: int) -> Tensor:
    return F.interpolate(indices.unsqueeze(1).float(), (4, 4), mode="nearest")


def test_each_scale_codes_what_the_smaller_ones_left_over() -> None:
    pattern = torch.tensor([[3.0, -1.0], [-1.0, -1.0]])
    latents = 5 + pattern.repeat_interleave(2, 0).repeat_interleave(2, 1).view(1, 1, 4, 4)
    latents[0, 0, 0, 0] += 2
    scales = encode_scales(latents, (1, 2, 4), whole_numbers, spread)
    assert [scale.flatten().tolist() for scale in scales[:2]] == [[5], [4, -1, -1, -1]]
    assert torch.equal(decode_scales(scales, spread), latents)


def test_upsampling_leaves_a_map_of_the_last_side_alone() -> None:
    vectors = torch.randn(2, 3, 4, 4)
    assert torch.equal(upsampled(vectors, 4), vectors)
    assert torch.allclose(upsampled(torch.ones(1, 1, 2, 2), 4), torch.ones(1, 1, 4, 4))


def test_a_quantizer_adds_raw_rows_half_of_them_smoothed() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer((7, 3), "cosine", SIDES, SMOOTHING_OF_SCALE)
    for smoothing in quantizer.smoothings:
        torch.nn.init.zeros_(smoothing.weight)
        torch.nn.init.zeros_(smoothing.bias)
    with torch.no_grad():
        scales = quantizer.encode(torch.randn(2, 3, 4, 4))
        assert [tuple(scale.shape) for scale in scales] == [(2, side, side) for side in SIDES]
        only_last = tuple(torch.zeros_like(scale) for scale in scales[:-1]) + scales[-1:]
        constant = 9 * quantizer.codebook[0].view(3, 1, 1)
        rows = quantizer.codebook[scales[-1]].permute(0, 3, 1, 2)
        expected = (constant + rows) / 2
        torch.testing.assert_close(quantizer.decode(only_last), expected)


def test_there_is_one_grid_per_scale() -> None:
    assert [grid.shape for grid in scale_grids((1, 3), 9)] == [(1, 1), (3, 3)]
