"""What a model over scales sees of the codes so far: the sum of what they add to a map, at the next scale's size.

The part of the tokenizer is a `Contribution`. Source: VAR (Tian et al. 2024), section 3.2.
Read next: glotok_ray/nn/var.py
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.nn.tokenizer_protocol import Tokenizer

Contribution = Callable[[Int64[Tensor, "b *k p p"], int], Float[Tensor, "b c h w"]]
"""What the codes of a scale, given by its number, add to the map, which has the side of the last scale. Those of
several branches are (b, k, p, p), and the map holds the channels of one branch after those of another.
"""


@runtime_checkable
class ScaleTokenizer(Tokenizer, Protocol):
    """A tokenizer of one grid per scale and branch, whose codes add up to one map; generators over scales need it."""

    @property
    def code_width(self) -> int:
        """Channels of the map, of all branches together."""
        ...

    def contribution(
        self, indices: Int64[Tensor, "b *k p p"], scale: int
    ) -> Float[Tensor, "b c h w"]:
        """A `Contribution`."""
        ...

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of what the codes of all scales add up to, about [-1, 1]; not clamped."""
        ...


def at_scale(summed: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b tokens c"]:
    """The map averaged down to a scale's side, as tokens in raster order."""
    small = F.interpolate(summed, (side, side), mode="area")
    return small.flatten(2).transpose(1, 2)


def codes_by_scale(
    grids: Sequence[Int64[Tensor, "b tokens"]], num_branches: int
) -> list[Int64[Tensor, "b *k tokens"]]:
    """The codes of every scale, given a tokenizer's grids: all scales of the first branch, then those of the next one.

    One branch has no axis of its own.
    """
    if num_branches == 1:
        return list(grids)
    num_scales = len(grids) // num_branches
    return [torch.stack(tuple(grids[scale::num_scales]), dim=1) for scale in range(num_scales)]


def next_scale_inputs(
    codes: Sequence[Int64[Tensor, "b *k tokens"]], sides: Sequence[int], contribution: Contribution
) -> Float[Tensor, "b n c"]:
    """The inputs of all scales but the first, one after another, given the codes of all scales but the last one; more
    codes are not looked at.
    """
    summed: Tensor | None = None
    inputs = []
    for scale, following in enumerate(sides[1:]):
        side = sides[scale]
        added = contribution(codes[scale].unflatten(-1, (side, side)), scale)
        summed = added if summed is None else summed + added
        inputs.append(at_scale(summed, following))
    return torch.cat(inputs, dim=1)
