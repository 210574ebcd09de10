"""Two-dimensional rotary position encoding of queries and keys, in xAR's cell-major token order.

Half of a head's width turns with the row, half with the column, in pairs of neighbouring channels.
Read next: glotok_ray/nn/xar_blocks.py
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.nn.cells import to_cells

_THETA = 10000.0


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, one per pair of channels."""

    cosine: Float[Tensor, "cells tokens pairs"]
    sine: Float[Tensor, "cells tokens pairs"]


def grid_rotation(
    grid_size: int, cell_size: int, head_width: int, device: torch.device
) -> Rotation:
    """Angles position / 10000^(2 i / (head_width / 2)) for rows, then for columns.

    `head_width` must be a multiple of 4. Computed in fp32 on each forward pass and not stored: a
    buffer would be rounded with a bf16 model and lost when a model is built on the meta device.
    """
    steps = torch.arange(0, head_width // 2, 2, device=device, dtype=torch.float32)
    frequencies = _THETA ** (-steps / (head_width // 2))
    places = torch.arange(grid_size**2, device=device).reshape(1, 1, grid_size, grid_size)
    places = to_cells(places, cell_size)[0]
    rows, columns = places // grid_size, places % grid_size
    angles = torch.cat([rows * frequencies, columns * frequencies], dim=-1)
    return Rotation(angles.cos(), angles.sin())


def rotate(
    heads: Float[Tensor, "b tokens heads width"], rotation: Rotation
) -> Float[Tensor, "b tokens heads width"]:
    """Turn each pair of neighbouring channels by its angle, in fp32 or better; the dtype stays."""
    precise = torch.promote_types(heads.dtype, torch.float32)
    cosine, sine = (part.flatten(0, 1).unsqueeze(1).to(precise) for part in rotation)
    even, odd = heads.to(precise).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cosine - odd * sine, odd * cosine + even * sine), dim=-1)
    return turned.flatten(-2).to(heads.dtype)
