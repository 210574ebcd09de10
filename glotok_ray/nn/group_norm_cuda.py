"""GroupNorm and SiLU on channels_last maps on CUDA: what is launched, forward and backward.

One kernel reduces spans of positions per channel, one merges the spans and the channels of a group, one writes the
map. Nothing is added atomically, so equal inputs give equal bits; an image's result depends on no other image.
`TRITON_INTERPRET=1` in the environment runs the same kernels on the CPU, which is how they are tested without a GPU.
Read next: glotok_ray/nn/blocks.py
"""

from typing import NamedTuple

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from glotok_ray.nn import group_norm_kernels as kernels

# Positions that one program reduces or writes: enough programs to fill a GPU, few enough partial sums to merge.
_SPAN = 512
# Numbers of a map that one program holds at a time, and the most channels among them.
_TILE = 4096
_CHANNELS = 128
# Each of their threads then holds 16 numbers of a map: whole loads, and registers for a few such maps.
_WARPS = 8
# Spans that are merged at a time.
_MERGED = 32


class _Launch(NamedTuple):
    """How a map is cut among programs."""

    positions: int
    spans: int
    grid: tuple[int, int, int]
    width: int
    rows: int
    channels: int

    @classmethod
    def of(cls, x: Tensor) -> "_Launch":
        images, width, height, length = x.shape
        positions = height * length
        spans = triton.cdiv(positions, _SPAN)
        channels = min(_CHANNELS, triton.next_power_of_2(width))
        # No more rows than there are positions, of which the smallest maps have few.
        rows = min(_TILE // channels, _SPAN, triton.next_power_of_2(positions))
        grid = (spans, images, triton.cdiv(width, channels))
        return cls(positions, spans, grid, width, rows, channels)

    def partial(self, x: Tensor) -> Tensor:
        """Room for two numbers per channel of every span."""
        return x.new_empty(2, self.grid[1], self.spans, self.width, dtype=torch.float32)

    def sizes(self) -> dict[str, int]:
        """What kernels over the map know as they are compiled."""
        return {
            "WIDTH": self.width,
            "SPAN": _SPAN,
            "ROWS": self.rows,
            "CHANNELS": self.channels,
            "num_warps": _WARPS,
        }


def forward(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    num_groups: int,
    eps: float,
    silu: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result in `dtype`, and mean and inverse deviation (b groups) in fp32; `x` and it are channels_last."""
    launch, group = _Launch.of(x), x.shape[1] // num_groups
    partial = launch.partial(x)
    statistics = x.new_empty(2, len(x), num_groups, dtype=torch.float32)
    kernels.moments_kernel[launch.grid](
        x, partial[0], partial[1], launch.positions, **launch.sizes()
    )
    kernels.merge_moments_kernel[(num_groups, len(x))](
        partial[0],
        partial[1],
        statistics[0],
        statistics[1],
        launch.positions,
        launch.spans,
        float(launch.positions * group),
        eps,
        WIDTH=launch.width,
        GROUP=group,
        PADDED=triton.next_power_of_2(group),
        SPAN=_SPAN,
        MERGED=_MERGED,
    )
    y = torch.empty_like(x, dtype=dtype, memory_format=torch.channels_last)
    kernels.normalize_kernel[launch.grid](
        x,
        weight,
        bias,
        statistics[0],
        statistics[1],
        y,
        launch.positions,
        SILU=silu,
        GROUP=group,
        **launch.sizes(),
    )
    return y, statistics[0], statistics[1]


def backward(
    gradient: Float[Tensor, "b c h w"],
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    mean: Float[Tensor, "b groups"],
    rstd: Float[Tensor, "b groups"],
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients at `x`, `weight` and `bias`, each in its dtype; maps are channels_last, sums are in fp32."""
    launch, num_groups = _Launch.of(x), mean.shape[1]
    group = x.shape[1] // num_groups
    partial = launch.partial(x)
    at_map = {"SILU": silu, "GROUP": group, **launch.sizes()}
    inputs = (gradient, x, weight, bias, mean, rstd)
    kernels.sums_kernel[launch.grid](*inputs, partial[0], partial[1], launch.positions, **at_map)
    of_channels = x.new_empty(2, len(x), launch.width, dtype=torch.float32)
    of_groups = x.new_empty(2, len(x), num_groups, dtype=torch.float32)
    kernels.merge_sums_kernel[(num_groups, len(x))](
        partial[0],
        partial[1],
        weight,
        of_channels,
        of_groups,
        launch.spans,
        float(launch.positions * group),
        WIDTH=launch.width,
        GROUP=group,
        PADDED=triton.next_power_of_2(group),
        MERGED=_MERGED,
    )
    found = torch.empty_like(x, memory_format=torch.channels_last)
    kernels.gradient_kernel[launch.grid](*inputs, of_groups, found, launch.positions, **at_map)
    at_weight, at_bias = of_channels.sum(dim=1)
    return found, at_weight.to(weight.dtype), at_bias.to(bias.dtype)
