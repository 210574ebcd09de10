"""What every image tokenizer here can do, whoever made it: images to codes and back, and what the codes cost.

Evaluation, reports and encoding ask for no more than this, so that they need not know which system they hold.
Read next: glotok_ray/peers/base.py
"""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Codes = Tensor | tuple[Tensor, ...]
"""Whole numbers, int64, batch first: one tensor per grid, in the order of `Rate.grids`. A single grid comes as its
tensor (b, *shape); grids of one shape may be stacked along the axis 1; others come as a tuple. `grids_of` separates
them.
"""


class Grid(NamedTuple):
    """One array of codes of an image."""

    shape: tuple[int, ...]
    """Without the batch: (16, 16), or (8, 8, 4) with depth last, or (128,) for a sequence."""
    num_codes: int
    """Each code is in [0, num_codes)."""

    @property
    def num_indices(self) -> int:
        """Codes per image."""
        return math.prod(self.shape)


class Rate(NamedTuple):
    """What one image of `image_size` costs in codes."""

    grids: tuple[Grid, ...]

    @property
    def num_indices(self) -> int:
        """Codes per image, of all grids."""
        return sum(grid.num_indices for grid in self.grids)

    @property
    def bits(self) -> float:
        """Bits per image when every code of a grid is equally long."""
        return sum(grid.num_indices * math.log2(grid.num_codes) for grid in self.grids)

    def scaled(self, factor: float) -> "Rate":
        """That of an image `factor` times as wide and as high, for tokenizers whose grids grow with it; a grid's depth
        stays.
        """
        return Rate(
            tuple(
                Grid(
                    (*(round(side * factor) for side in grid.shape[:2]), *grid.shape[2:]),
                    grid.num_codes,
                )
                for grid in self.grids
            )
        )


@runtime_checkable
class Tokenizer(Protocol):
    """An image tokenizer for inference. Images are (b, 3, H, W), floating-point, in [-1, 1]; a system that works on
    another range converts inside.
    """

    @property
    def image_size(self) -> int:
        """Side of the square images that it was made for, pixels."""
        ...

    @property
    def side_multiple(self) -> int | None:
        """Both sides of an image must be multiples of it; None takes `image_size` alone."""
        ...

    @property
    def rate(self) -> Rate:
        """What an image of `image_size` costs."""
        ...

    @property
    def grid_names(self) -> tuple[str, ...]:
        """What the grids of `rate` are called, in their order: columns of code files and metrics have these names."""
        ...

    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """The codes of images in [-1, 1]. Raises ValueError for images of another shape, kind or range."""
        ...

    # Any: each system takes what its own encode gives, one of the forms of Codes.
    def decode(self, codes: Any) -> Float[Tensor, "b 3 H W"]:
        """Images of codes, about [-1, 1] and not clamped. Raises ValueError for codes that do not exist."""
        ...

    def reconstruct(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Images after one pass through their codes, clamped to [-1, 1]. Raises what `encode` raises."""
        ...


def grids_of(codes: Codes, rate: Rate) -> tuple[Int[Tensor, "b ..."], ...]:
    """One tensor (b, *shape) per grid of `rate`, for images of any size. Raises ValueError for another number of grids,
    or of axes.
    """
    if isinstance(codes, tuple):
        parts = codes
    else:
        stacked = codes.ndim == len(rate.grids[0].shape) + 2
        parts = codes.unbind(1) if stacked else (codes,)
    axes = [part.ndim - 1 for part in parts]
    expected = [len(grid.shape) for grid in rate.grids]
    if axes != expected:
        raise ValueError(
            f"codes in {len(parts)} grids of {axes} axes: must be {len(rate.grids)} grids of {expected} axes after the "
            "batch, as encode gives them"
        )
    return parts
