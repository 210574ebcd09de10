"""Both passes over all pairs in fp32 on the CPU, compiled by Numba; one thread per core of torch's own count.

Vectors lie as (d, n), so that one instruction handles the same channel of eight vectors. Work is cut into stripes of
rows with about equally many pairs; stripes are a function of n alone and are summed in their order, so the result
depends neither on the threads nor on the workers.
Read next: glotok_ray/losses/pairs/cuda.py
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from glotok_ray.losses.pairs.tables import Share, value_and_rise

Result = TypeVar("Result")

# Rows that share every load of a column, and columns whose cosines stay in the first-level cache.
_ROWS = 4
_COLUMNS = 512
# Four channels per turn keep the sum of products in registers; narrower vectors are padded with zeros.
_CHANNELS = 4
_MOST_STRIPES = 32
_PAIRS_PER_STRIPE = 1 << 15
# One 64-bit number counts pairs in its upper bits and sums their fractions in its lower ones: one addition to memory
# per pair. 2^25 pairs with fractions below 2^10 stay within both.
_COUNT_BIT = 37
_MOST_PAIRS_PER_STRIPE = 1 << 25
_MOST_FRACTION_BITS = 10
# Positions are whole numbers up to 2^23, below which fp32 counts by ones.
_POSITION_BITS = 23


def fraction_bits(num_nodes: int) -> int:
    """Bits of a position below the node; `num_nodes` is a power of two or not, up to 2^20."""
    return min(_MOST_FRACTION_BITS, _POSITION_BITS - math.ceil(math.log2(num_nodes)))


def unpack(packed: np.ndarray, bits: int) -> Float[np.ndarray, " nodes"]:
    """Counts on the nodes from packed ones (num_nodes + 1,): a pair's fraction moves to the next
    node.
    """
    fractions = (packed & ((1 << _COUNT_BIT) - 1)) / (1 << bits)
    counts = (packed >> _COUNT_BIT) - fractions
    counts[1:] += fractions[:-1]
    return counts


def pair_histogram(
    unit: Float[Tensor, "n d"], num_nodes: int, share: Share
) -> Float[Tensor, " nodes"]:
    """`passes.pair_histogram` of finite fp32 vectors."""
    channels = _by_channel(unit)
    bits = fraction_bits(num_nodes)

    def one(first: int, last: int) -> np.ndarray:
        packed = np.zeros(num_nodes + 1, np.int64)
        _histogram_stripe(
            channels, first, last, np.float32(num_nodes / 2 * (1 << bits)), bits, packed
        )
        return unpack(packed, bits)

    total = np.zeros(num_nodes + 1)
    for counts in _over_stripes(one, len(unit), share):
        total += counts
    return torch.from_numpy(total)


def accumulate_gradient(
    unit: Float[Tensor, "n d"], slope: Float[Tensor, " nodes"], share: Share
) -> Float[Tensor, "n d"]:
    """`passes.accumulate_gradient` of finite fp32 vectors."""
    channels = _by_channel(unit)
    table = value_and_rise(slope).numpy()

    def one(first: int, last: int) -> np.ndarray:
        gradient = np.zeros_like(channels)
        _gradient_stripe(channels, first, last, np.float32((len(slope) - 1) / 2), table, gradient)
        return gradient

    total = np.zeros(channels.shape)
    for gradient in _over_stripes(one, len(unit), share):
        total += gradient
    return torch.from_numpy(total).T[:, : unit.shape[1]].to(unit.dtype).contiguous()


def _by_channel(unit: Tensor) -> np.ndarray:
    rest = -unit.shape[1] % _CHANNELS
    return torch.nn.functional.pad(unit.detach(), (0, rest)).T.contiguous().numpy()


def _over_stripes(one: Callable[[int, int], Result], length: int, share: Share) -> Iterator[Result]:
    mine = stripes(length)[share.index :: share.count]
    threads = min(torch.get_num_threads(), len(mine))
    if threads <= 1:
        yield from (one(*stripe) for stripe in mine)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, *zip(*mine, strict=True))


def stripes(length: int) -> list[tuple[int, int]]:
    """Ranges of rows with about equally many pairs to their right, starting at multiples of four."""
    pairs = length * (length - 1) // 2
    number = max(
        min(_MOST_STRIPES, pairs // _PAIRS_PER_STRIPE), pairs // _MOST_PAIRS_PER_STRIPE + 1, 1
    )
    edges = [
        int(length * (1 - math.sqrt(1 - part / number))) // _ROWS * _ROWS for part in range(number)
    ]
    return [
        (first, last)
        for first, last in zip(edges, [*edges[1:], length], strict=True)
        if last > first
    ]


def _compiled(function: Callable[..., Any]) -> Any:
    options: dict[str, Any] = {"nogil": True, "fastmath": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither this folder nor the user's own can be written: compile anew in every process, 3 seconds.
        return njit(**options)(function)


@_compiled
def _cosines(channels, row, start, width, cosines):
    """Cosines of four rows with `width` columns from `start`, into (4, width)."""
    for r in range(_ROWS):
        out = cosines[r, :width]
        for c in range(0, channels.shape[0], _CHANNELS):
            u0, u1 = channels[c, row + r], channels[c + 1, row + r]
            u2, u3 = channels[c + 2, row + r], channels[c + 3, row + r]
            # Slices start at 0, which tells the compiler that indices are never negative, so that it vectorises.
            x0 = channels[c, start : start + width]
            x1 = channels[c + 1, start : start + width]
            x2 = channels[c + 2, start : start + width]
            x3 = channels[c + 3, start : start + width]
            if c == 0:
                for j in range(width):
                    out[j] = u0 * x0[j] + u1 * x1[j] + u2 * x2[j] + u3 * x3[j]
            else:
                for j in range(width):
                    out[j] += u0 * x0[j] + u1 * x1[j] + u2 * x2[j] + u3 * x3[j]


@_compiled
def _cosine(channels, i, j):
    total = np.float32(0)
    for c in range(channels.shape[0]):
        total += channels[c, i] * channels[c, j]
    return total


@_compiled
def _histogram_stripe(channels, first, last, scale, bits, packed):
    """Add the pairs (i, j > i) of rows first..last to the packed counts."""
    one, half = np.float32(1), np.float32(0.5)
    mask, shift = np.uint64((1 << bits) - 1), np.uint64(bits)
    pair = np.int64(1) << np.int64(_COUNT_BIT)
    length = channels.shape[1]
    cosines = np.empty((_ROWS, _COLUMNS), np.float32)
    positions = np.empty(_COLUMNS, np.int32)
    for row in range(first, last, _ROWS):
        end = min(row + _ROWS, last)
        for i in range(row, end):
            for j in range(i + 1, end):
                cosine = min(max(_cosine(channels, i, j), -one), one)
                position = np.uint64(np.int32((cosine + one) * scale + half))
                packed[position >> shift] += pair + np.int64(position & mask)
        # A row count below four occurs at the very end alone, where no column is left.
        for start in range(row + _ROWS, length, _COLUMNS):
            width = min(_COLUMNS, length - start)
            _cosines(channels, row, start, width, cosines)
            for r in range(_ROWS):
                values = cosines[r, :width]
                for j in range(width):
                    cosine = min(max(values[j], -one), one)
                    positions[j] = np.int32((cosine + one) * scale + half)
                for j in range(width):
                    position = np.uint64(positions[j])
                    packed[position >> shift] += pair + np.int64(position & mask)


@_compiled
def _gradient_stripe(channels, first, last, scale, table, gradient):
    """Add what the pairs (i, j > i) of rows first..last give to the gradient (d, n)."""
    width_of_vector, length = channels.shape
    weights = np.empty((_ROWS, _COLUMNS), np.float32)
    nodes = np.empty(_COLUMNS, np.uint32)
    own = np.empty((width_of_vector, _ROWS), np.float32)
    for row in range(first, last, _ROWS):
        _gradient_among(channels, row, min(row + _ROWS, last), scale, table, gradient)
        if row + _ROWS >= length:
            continue
        own[:] = 0
        for start in range(row + _ROWS, length, _COLUMNS):
            width = min(_COLUMNS, length - start)
            _cosines(channels, row, start, width, weights)
            for r in range(_ROWS):
                _look_up(weights[r, :width], nodes, scale, table)
            _gradient_block(channels, row, start, width, weights, own, gradient)
        for c in range(width_of_vector):
            for r in range(_ROWS):
                gradient[c, row + r] += own[c, r]


@_compiled
def _gradient_among(channels, row, end, scale, table, gradient):
    """The pairs among a block's own rows."""
    one = np.float32(1)
    for i in range(row, end):
        for j in range(i + 1, end):
            position = (min(max(_cosine(channels, i, j), -one), one) + one) * scale
            node = np.uint32(position)
            weight = table[node, 0] + (position - np.float32(node)) * table[node, 1]
            for c in range(channels.shape[0]):
                gradient[c, i] += weight * channels[c, j]
                gradient[c, j] += weight * channels[c, i]


@_compiled
def _look_up(values, nodes, scale, table):
    """Put the interpolated table in the place of cosines."""
    one = np.float32(1)
    for j in range(len(values)):
        position = (min(max(values[j], -one), one) + one) * scale
        node = np.int32(position)
        nodes[j] = np.uint32(node)
        values[j] = position - np.float32(node)
    # Apart from the loop above, which vectorises while this one waits for memory.
    for j in range(len(values)):
        values[j] = table[nodes[j], 0] + values[j] * table[nodes[j], 1]


@_compiled
def _gradient_block(channels, row, start, width, weights, own, gradient):
    """What one block gives: to its columns in the gradient, to its four rows in `own` (d, 4)."""
    w0, w1, w2, w3 = weights[0, :width], weights[1, :width], weights[2, :width], weights[3, :width]
    for c in range(channels.shape[0]):
        u0, u1 = channels[c, row], channels[c, row + 1]
        u2, u3 = channels[c, row + 2], channels[c, row + 3]
        columns, pulled = channels[c, start : start + width], gradient[c, start : start + width]
        s0 = s1 = s2 = s3 = np.float32(0)
        for j in range(width):
            column = columns[j]
            s0 += w0[j] * column
            s1 += w1[j] * column
            s2 += w2[j] * column
            s3 += w3[j] * column
            pulled[j] += w0[j] * u0 + w1[j] * u1 + w2[j] * u2 + w3[j] * u3
        own[c, 0] += s0
        own[c, 1] += s1
        own[c, 2] += s2
        own[c, 3] += s3
