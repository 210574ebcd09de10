"""The two passes over all pairs of unit vectors behind the relation loss: the histogram of their cosines, and its
gradient at the vectors.

Both are sums over pairs i < j, so a share of the pairs gives a share of the sum. fp32 on a CPU runs compiled
(cpu.py), on CUDA as one Triton kernel each (cuda.py); everything else, fp64 above all, runs here in
tiles of plain torch, which is also what the other two are tested against. Of the workers' GPUs some may lack Triton.
Read next: glotok_ray/losses/pairs/cpu.py
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.devices import kernel_works
from glotok_ray.losses.pairs.tables import ROWS_PER_BLOCK, Share, row_blocks

# Wider vectors do not fit into the registers of the CUDA kernel.
_WIDEST_ON_CUDA = 128


class Backend(NamedTuple):
    """One implementation of both passes."""

    pair_histogram: Callable[[Tensor, int, Share], Tensor]
    accumulate_gradient: Callable[[Tensor, Tensor, Share], Tensor]


class Sharing(Protocol):
    """The workers among which pairs are shared out; a `glotok_ray.training.worker.Worker` is one."""

    rank: int
    world_size: int

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all workers, on every worker."""
        ...


def pair_histogram(
    unit: Float[Tensor, "n d"], num_nodes: int, share: Share
) -> Float[Tensor, " nodes"]:
    """Counts of the cosines of this share's pairs i < j on `num_nodes` + 1 nodes from -1 to 1, each
    pair split linearly over its two neighbours; fp64.

    In fp32 the split is rounded to a fixed fraction, so that counts are exact sums: neither the number of threads
    nor of workers changes a bit. A NaN in `unit` makes all counts NaN.
    """
    # 0 * NaN carries a broken vector into every count without a look at the data, which would stall a GPU.
    broken = (unit * 0).sum().double()
    return _backend(unit).pair_histogram(torch.nan_to_num(unit), num_nodes, share) + broken


def accumulate_gradient(
    unit: Float[Tensor, "n d"], slope: Float[Tensor, " nodes"], share: Share
) -> Float[Tensor, "n d"]:
    """For this share's pairs i < j: add slope(cosine) times vector j to row i, and times vector i to
    row j.

    `slope` is given on the nodes and interpolated linearly. It is the gradient of a sum over pairs of a function of
    the cosine, whose derivative is `slope`.
    """
    return _backend(unit).accumulate_gradient(torch.nan_to_num(unit), slope, share)


def _backend(unit: Tensor) -> Backend:
    if unit.dtype == torch.float32 and unit.device.type == "cpu":
        # Numba costs half a second to import, which jobs without a relation loss need not pay.
        from glotok_ray.losses.pairs import cpu

        return Backend(cpu.pair_histogram, cpu.accumulate_gradient)
    if (
        unit.dtype == torch.float32
        and unit.device.type == "cuda"
        and unit.shape[1] <= _WIDEST_ON_CUDA
    ):
        if not _triton_works(unit.device.index):
            # Triton may well work for the other workers, say where one machine lacks a C compiler.
            return BY_ROWS
        from glotok_ray.losses.pairs import cuda

        return Backend(cuda.pair_histogram, cuda.accumulate_gradient)
    return TILED


@functools.cache
def _triton_works(device: int) -> bool:
    """Whether the kernels run on this GPU; only an answer is remembered, and no error."""

    def probe() -> None:
        from glotok_ray.losses.pairs import cuda

        cuda.pair_histogram(torch.eye(2, device=f"cuda:{device}"), 1024, Share())

    return kernel_works(
        probe,
        device=device,
        what="relation loss",
        instead="plain torch computes it, more slowly",
    )


def _histogram_in_tiles(unit: Tensor, num_nodes: int, share: Share) -> Tensor:
    counts = torch.zeros(num_nodes + 1, dtype=torch.float64, device=unit.device)
    for rows, columns in _tiles(unit, share):
        cosines = unit[rows] @ unit[columns].T
        # Choosing the pairs above the diagonal, or `bincount`, would let the host wait for a GPU.
        pairs = torch.ones_like(cosines, dtype=torch.float64)
        if rows == columns:
            pairs.triu_(1)
        _count(counts, cosines, pairs)
    return counts


def _count(counts: Tensor, cosines: Tensor, pairs: Tensor) -> None:
    """Add to the counts; `pairs` are 1 where a cosine counts, else 0."""
    left, part = _positions(cosines, len(counts) - 1)
    moved = pairs * part
    for nodes, shares in ((left, pairs - moved), (left + 1, moved)):
        counts.index_add_(0, nodes.flatten(), shares.flatten())


def _gradient_in_tiles(unit: Tensor, slope: Tensor, share: Share) -> Tensor:
    gradient, slope = torch.zeros_like(unit), slope.to(unit)
    for rows, columns in _tiles(unit, share):
        weights = _looked_up(unit[rows] @ unit[columns].T, slope)
        if rows == columns:
            weights = weights * _above_diagonal(weights)
        gradient[rows] += weights @ unit[columns]
        gradient[columns] += weights.T @ unit[rows]
    return gradient


def _looked_up(cosines: Tensor, slope: Tensor) -> Tensor:
    left, part = _positions(cosines, len(slope) - 1)
    return torch.lerp(slope[left], slope[left + 1], part)


TILED = Backend(_histogram_in_tiles, _gradient_in_tiles)


def _histogram_of_rows(unit: Tensor, num_nodes: int, share: Share) -> Tensor:
    """The pairs that cuda.py counts for this share."""
    if share.count == 1:
        return _histogram_in_tiles(unit, num_nodes, share)
    counts = torch.zeros(num_nodes + 1, dtype=torch.float64, device=unit.device)
    for first, rows in _own_rows(unit, share):
        for columns in _strips(unit, first):
            pairs = rows[:, None] < columns
            _count(counts, unit[rows] @ unit[columns].T, pairs.double())
    return counts


def _gradient_of_rows(unit: Tensor, slope: Tensor, share: Share) -> Tensor:
    """The rows that cuda.py computes for this share, with the pairs on both sides of them."""
    if share.count == 1:
        return _gradient_in_tiles(unit, slope, share)
    gradient, slope = torch.zeros_like(unit), slope.to(unit)
    for _, rows in _own_rows(unit, share):
        for columns in _strips(unit, 0):
            weights = _looked_up(unit[rows] @ unit[columns].T, slope)
            gradient[rows] += (weights * (rows[:, None] != columns)) @ unit[columns]
    return gradient


BY_ROWS = Backend(_histogram_of_rows, _gradient_of_rows)
"""Plain torch that divides the pairs as cuda.py does, so that each worker may take either."""


def _positions(cosines: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """The node to the left of each cosine and the way to the next one, in [0, 1]."""
    position = ((cosines + 1) * (num_nodes / 2)).clamp(0, num_nodes)
    left = position.floor().clamp_(max=num_nodes - 1)
    return left.long(), position - left


def _tiles(unit: Tensor, share: Share) -> Iterator[tuple[slice, slice]]:
    """Row and column slices of the upper triangle's tiles; on the diagonal both are equal."""
    length, size = len(unit), _tile_size(unit)
    tops = range(0, length, size)
    # Dealing the strips out by turns evens out the triangle's long and short ones.
    for top in tops[share.index :: share.count]:
        for left in range(top, length, size):
            yield slice(top, min(top + size, length)), slice(left, min(left + size, length))


def _tile_size(unit: Tensor) -> int:
    # A CPU gains from tiles that stay in its cache, a GPU from few launches.
    return 256 if unit.device.type == "cpu" else 4096


def _own_rows(unit: Tensor, share: Share) -> Iterator[tuple[int, Tensor]]:
    """The numbers of the share's rows, a tile's height at a time, each behind the first of them."""
    blocks, height = row_blocks(len(unit), share), _tile_size(unit) // ROWS_PER_BLOCK
    within = torch.arange(ROWS_PER_BLOCK, device=unit.device)
    for start in range(0, len(blocks), height):
        part = blocks[start : start + height]
        firsts = ROWS_PER_BLOCK * torch.arange(part.start, part.stop, part.step, device=unit.device)
        # Cut by its length: choosing by value would let the host wait for a GPU.
        missing = max(0, (part[-1] + 1) * ROWS_PER_BLOCK - len(unit))
        yield (
            part[0] * ROWS_PER_BLOCK,
            (firsts[:, None] + within).flatten()[: len(part) * ROWS_PER_BLOCK - missing],
        )


def _strips(unit: Tensor, first: int) -> Iterator[Tensor]:
    """The numbers of all columns from `first` on, a tile's width at a time."""
    length, size = len(unit), _tile_size(unit)
    for left in range(first, length, size):
        yield torch.arange(left, min(left + size, length), device=unit.device)


def _above_diagonal(square: Tensor) -> Tensor:
    return torch.ones_like(square, dtype=torch.bool).triu_(1)
