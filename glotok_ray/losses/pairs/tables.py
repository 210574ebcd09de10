"""What all implementations of the two passes take: a share of the pairs, and a function's table as kernels read it."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Share(NamedTuple):
    """Every `count`-th stripe of pairs from the `index`-th: one worker's part of the work."""

    index: int = 0
    count: int = 1


ROWS_PER_BLOCK = 64
"""On CUDA, whatever computes there: how many rows are dealt out to a share at once."""


def row_blocks(length: int, share: Share) -> range:
    """The numbers of the share's blocks of rows; the last block of all may be shorter."""
    return range(-(-length // ROWS_PER_BLOCK))[share.index :: share.count]


def value_and_rise(slope: Float[Tensor, " nodes"]) -> Float[Tensor, "nodes 2"]:
    """The table as compiled kernels read it, fp32: the value at a node beside its rise to the next one,
    so that one cache line serves both look-ups.
    """
    rise = torch.nn.functional.pad(slope.diff(), (0, 1))
    return torch.stack([slope, rise], dim=1).float().contiguous()
