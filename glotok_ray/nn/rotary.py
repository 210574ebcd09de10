"""Two-dimensional rotary position encoding of queries and keys.

Half of a head's width turns with the row, half with the column, in pairs of neighbouring channels.
Read next: glotok_ray/nn/xar_blocks.py
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_THETA = 10000.0


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, one per pair of channels."""

    cosine: Float[Tensor, "n pairs"]
    sine: Float[Tensor, "n pairs"]

    def part(self, chosen: slice) -> "Rotation":
        """The rotation of some of the tokens."""
        return Rotation(self.cosine[chosen], self.sine[chosen])


def pair_frequencies(head_width: int, device: torch.device) -> Float[Tensor, " half"]:
    """10000^(-2 i / (head_width / 2)) of the pairs of channels that turn with the row, and again with the column."""
    steps = torch.arange(0, head_width // 2, 2, device=device, dtype=torch.float32)
    return _THETA ** (-steps / (head_width // 2))


def grid_rotation(places: Float[Tensor, "n 2"], head_width: int) -> Rotation:
    """Angles position * frequency for rows, then for columns.

    `places` are the tokens' (row, column), fractions allowed; `head_width` must be a multiple of 4. Computed in fp32
    on each forward pass and not stored: a buffer would be rounded with a bf16 model and lost when a model is built on
    the meta device.
    """
    frequencies = pair_frequencies(head_width, places.device)
    angles = (places.float().unsqueeze(-1) * frequencies).flatten(1)
    return Rotation(angles.cos(), angles.sin())


def rotate(heads: Float[Tensor, "b n heads width"], rotation: Rotation) -> Tensor:
    """Turn each pair of neighbouring channels by its angle, in fp32 or better; the dtype stays."""
    precise = torch.promote_types(heads.dtype, torch.float32)
    cosine, sine = (part.unsqueeze(1).to(precise) for part in rotation)
    pairs = heads.to(precise).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        # The compiler fuses these, and does not fuse complex numbers.
        even, odd = pairs.unbind(-1)
        turned = torch.stack((even * cosine - odd * sine, odd * cosine + even * sine), dim=-1)
    else:
        # As complex numbers, all pairs turn in a single product without temporaries.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cosine, sine))
    return turned.flatten(-2).to(heads.dtype)
