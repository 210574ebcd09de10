"""What files of codes hold of a tokenizer: a column per grid, its codes and its form, and whose they are.

Read next: glotok_ray/data/codes.py
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pyarrow

from glotok_ray.config.tokenizer import TokenizerConfig

_SMALLEST = (np.uint16, np.uint32)


class CodeColumn(NamedTuple):
    """One grid of codes of every image, row by row in one list of fixed length."""

    name: str
    num_codes: int
    """Each code is in [0, num_codes)."""
    shape: tuple[int, ...]
    """Of the grid: (16, 16), or (8, 8, 4) with depth last, or (128,) for a sequence."""

    @property
    def num_positions(self) -> int:
        """Codes per image."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type, of two bytes at least, that holds every code: uint16 for up to 65,536."""
        return next(
            np.dtype(kind) for kind in _SMALLEST if self.num_codes <= np.iinfo(kind).max + 1
        )

    @property
    def arrow_type(self) -> pyarrow.DataType:
        """Of the column in Parquet."""
        return pyarrow.list_(pyarrow.from_numpy_dtype(self.dtype), self.num_positions)


@dataclass(frozen=True)
class CodeLayout:
    """All columns of codes of a tokenizer."""

    image_size: int
    """Side of the images that are encoded, pixels."""
    columns: tuple[CodeColumn, ...]
    system: str = ""
    """The name of another system, of `glotok_ray.peers.systems`; ours has none."""

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.columns):
            raise ValueError(f"columns = {', '.join(self.names)}: must have names of their own")

    @classmethod
    def glotok(cls, model: TokenizerConfig) -> Self:
        """Of our own tokenizers: a square grid per codebook."""
        side = model.autoencoder.grid_size
        columns = (CodeColumn(item.name, item.size, (side, side)) for item in model.codebooks)
        return cls(model.autoencoder.image_size, tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in the order of the tokenizer's grids."""
        return tuple(column.name for column in self.columns)

    @property
    def code_counts(self) -> dict[str, int]:
        """Number of codes by column."""
        return {column.name: column.num_codes for column in self.columns}

    @property
    def grids(self) -> dict[str, tuple[int, ...]]:
        """Form of the grid by column."""
        return {column.name: column.shape for column in self.columns}

    @property
    def grid_size(self) -> int:
        """Side of the grids where all are squares of one side; 0 for others."""
        shapes = {column.shape for column in self.columns}
        shape = shapes.pop()
        return shape[0] if not shapes and len(shape) == 2 and shape[0] == shape[1] else 0

    @property
    def num_indices(self) -> int:
        """Codes per image, of all columns."""
        return sum(column.num_positions for column in self.columns)

    @property
    def bits(self) -> float:
        """Bits per image when every code of a column is equally long."""
        return sum(column.num_positions * math.log2(column.num_codes) for column in self.columns)

    @property
    def bytes_per_view(self) -> int:
        """Of the codes of one view in memory."""
        return sum(column.num_positions * column.dtype.itemsize for column in self.columns)
