"""The order of tokens in xAR: square cells of a grid, raster over cells and raster inside each.

Source: xAR (Ren et al. 2025), section 3.2.1. Read next: glotok_ray/nn/rotary.py
"""

from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor


def to_cells(grid: Shaped[Tensor, "b c h w"], cell_size: int) -> Shaped[Tensor, "b cells tokens c"]:
    """Cut a grid into cells of side `cell_size`, of which both sides must be multiples."""
    pattern = "b c (m i) (n j) -> b (m n) (i j) c"
    return rearrange(grid, pattern, i=cell_size, j=cell_size)


def from_cells(
    cells: Shaped[Tensor, "b cells tokens c"], grid_size: int, cell_size: int
) -> Shaped[Tensor, "b c h w"]:
    """Put cells back on a square grid of side `grid_size`; the inverse of `to_cells`."""
    pattern = "b (m n) (i j) c -> b c (m i) (n j)"
    return rearrange(cells, pattern, m=grid_size // cell_size, i=cell_size)
