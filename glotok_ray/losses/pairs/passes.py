"""The two passes over all pairs of unit vectors behind the relation loss: the histogram of their cosines, and its
gradient at the vectors.

Both are sums over pairs i < j, so a share of the pairs gives a share of the sum. fp32 on a CPU runs compiled
(cpu.py), on CUDA as one Triton kernel each (cuda.py); everything else, fp64 above all, runs here in
tiles of plain torch, which is also what the other two are tested against.
Read next: glotok_ray/losses/pairs/cpu.py
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.devices import kernel_works
from glotok_ray.losses.pairs.tables import Share

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
        and _triton_works(unit.device.index)
    ):
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
        left, part = _positions(cosines, num_nodes)
        # Choosing the pairs above the diagonal, or `bincount`, would let the host wait for a GPU.
        pairs = torch.ones_like(cosines, dtype=torch.float64)
        if rows == columns:
            pairs.triu_(1)
        moved = pairs * part
        for nodes, shares in ((left, pairs - moved), (left + 1, moved)):
            counts.index_add_(0, nodes.flatten(), shares.flatten())
    return counts


def _gradient_in_tiles(unit: Tensor, slope: Tensor, share: Share) -> Tensor:
    gradient, slope = torch.zeros_like(unit), slope.to(unit)
    for rows, columns in _tiles(unit, share):
        left, part = _positions(unit[rows] @ unit[columns].T, len(slope) - 1)
        weights = torch.lerp(slope[left], slope[left + 1], part)
        if rows == columns:
            weights = weights * _above_diagonal(weights)
        gradient[rows] += weights @ unit[columns]
        gradient[columns] += weights.T @ unit[rows]
    return gradient


TILED = Backend(_histogram_in_tiles, _gradient_in_tiles)


def _positions(cosines: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """The node to the left of each cosine and the way to the next one, in [0, 1]."""
    position = ((cosines + 1) * (num_nodes / 2)).clamp(0, num_nodes)
    left = position.floor().clamp_(max=num_nodes - 1)
    return left.long(), position - left


def _tiles(unit: Tensor, share: Share) -> Iterator[tuple[slice, slice]]:
    """Row and column slices of the upper triangle's tiles; on the diagonal both are equal."""
    # A CPU gains from tiles that stay in its cache, a GPU from few launches.
    length, size = len(unit), 256 if unit.device.type == "cpu" else 4096
    tops = range(0, length, size)
    # Dealing the strips out by turns evens out the triangle's long and short ones.
    for top in tops[share.index :: share.count]:
        for left in range(top, length, size):
            yield slice(top, min(top + size, length)), slice(left, min(left + size, length))


def _above_diagonal(square: Tensor) -> Tensor:
    return torch.ones_like(square, dtype=torch.bool).triu_(1)
