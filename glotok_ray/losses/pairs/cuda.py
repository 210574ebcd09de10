"""Both passes over all pairs in fp32 on CUDA, one Triton kernel each; cosines never leave the chip.

The histogram visits the upper triangle and adds whole numbers, so the order of additions changes nothing. The gradient
gives each program some rows and lets it walk all columns: twice the products, no additions across programs.
`TRITON_INTERPRET=1` in the environment runs the same kernels on the CPU, which is how they are tested without a GPU.
Read next: glotok_ray/losses/relation.py
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from glotok_ray.losses.pairs.tables import ROWS_PER_BLOCK, Share, row_blocks, value_and_rise

_COLUMNS = 64
# tl.dot takes at least 16 channels at a time; narrower vectors are padded with zeros.
_CHANNELS = 16
# As in cpu.py: one 64-bit number holds a count above this bit and a sum of fractions below it.
_COUNT_BIT = 37
_MOST_PAIRS_PER_COUNTER = 1 << 25
_FRACTION_BITS = 10
# Programs spread over copies of the counters, so that equal cosines do not queue at one address.
_FEWEST_COPIES = 64

# Compile-time numbers are annotated for Triton, which confuses type checkers at the launches.
_kernel: Any = triton.jit


@_kernel
def _cosines(unit_ptr, rows, columns, length, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):  # noqa: N803
    cosines = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for start in range(0, WIDTH, CHANNELS):
        channels = start + tl.arange(0, CHANNELS)
        left = tl.load(
            unit_ptr + rows[:, None] * WIDTH + channels[None, :],
            mask=rows[:, None] < length,
            other=0.0,
        )
        right = tl.load(
            unit_ptr + columns[:, None] * WIDTH + channels[None, :],
            mask=columns[:, None] < length,
            other=0.0,
        )
        # TF32 would blur cosines by a third of a node.
        cosines += tl.dot(left, tl.trans(right), input_precision="ieee")
    return tl.minimum(tl.maximum(cosines, -1.0), 1.0)


@_kernel
def _histogram_kernel(  # noqa: PLR0913
    unit_ptr,
    packed_ptr,
    length,
    first_block,
    block_stride,
    scale,
    copies,
    counters,
    WIDTH: tl.constexpr,  # noqa: N803
    BITS: tl.constexpr,  # noqa: N803
    COUNT_BIT: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    row_block = first_block + tl.program_id(1) * block_stride
    column_block = tl.program_id(0)
    if column_block * COLUMNS + COLUMNS <= row_block * ROWS:
        return
    rows = row_block * ROWS + tl.arange(0, ROWS)
    columns = column_block * COLUMNS + tl.arange(0, COLUMNS)
    cosines = _cosines(unit_ptr, rows, columns, length, WIDTH, CHANNELS)
    positions = ((cosines + 1.0) * scale + 0.5).to(tl.int32)
    fractions = positions & ((1 << BITS) - 1)  # pyright: ignore[reportOperatorIssue]
    pair = tl.full((ROWS, COLUMNS), 1, tl.int64) << COUNT_BIT
    copy = (row_block * 31 + column_block) % copies
    counted = (rows[:, None] < columns[None, :]) & (columns[None, :] < length)
    tl.atomic_add(
        packed_ptr + copy.to(tl.int64) * counters + (positions >> BITS),
        pair + fractions.to(tl.int64),
        mask=counted,
        sem="relaxed",
    )


@_kernel
def _gradient_kernel(  # noqa: PLR0913
    unit_ptr,
    table_ptr,
    gradient_ptr,
    length,
    first_block,
    block_stride,
    scale,
    WIDTH: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    row_block = first_block + tl.program_id(0) * block_stride
    rows = row_block * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, PADDED)
    gradient = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, length, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        cosines = _cosines(unit_ptr, rows, columns, length, WIDTH, CHANNELS)
        position = (cosines + 1.0) * scale
        node = position.to(tl.int32)
        value = tl.load(table_ptr + node * 2)
        rise = tl.load(table_ptr + node * 2 + 1)
        weights = value + (position - node.to(tl.float32)) * rise
        paired = (rows[:, None] != columns[None, :]) & (columns[None, :] < length)
        weights = tl.where(paired, weights, 0.0)
        vectors = tl.load(
            unit_ptr + columns[:, None] * WIDTH + channels[None, :],
            mask=(columns[:, None] < length) & (channels[None, :] < WIDTH),
            other=0.0,
        )
        gradient += tl.dot(weights, vectors, input_precision="ieee")
    tl.store(
        gradient_ptr + rows[:, None] * WIDTH + channels[None, :],
        gradient,
        mask=(rows[:, None] < length) & (channels[None, :] < WIDTH),
    )


def pair_histogram(
    unit: Float[Tensor, "n d"], num_nodes: int, share: Share
) -> Float[Tensor, " nodes"]:
    """`passes.pair_histogram` of finite fp32 vectors on one device; at most 2^13 nodes keep ten bits of
    fraction.
    """
    vectors, blocks = _padded(unit), row_blocks(len(unit), share)
    bits = min(_FRACTION_BITS, 23 - (num_nodes - 1).bit_length())
    copies = max(_FEWEST_COPIES, len(unit) ** 2 // 2 // _MOST_PAIRS_PER_COUNTER + 1)
    packed = torch.zeros(copies, num_nodes + 1, dtype=torch.int64, device=unit.device)
    if len(blocks):
        # Triton launches on the current device, whichever holds the vectors; a CPU's changes nothing.
        with torch.cuda.device_of(unit):
            _histogram_kernel[(triton.cdiv(len(unit), _COLUMNS), len(blocks))](
                vectors,
                packed,
                len(unit),
                blocks.start,
                blocks.step,
                num_nodes / 2 * (1 << bits),
                copies,
                num_nodes + 1,
                WIDTH=vectors.shape[1],
                BITS=bits,
                COUNT_BIT=_COUNT_BIT,
                ROWS=ROWS_PER_BLOCK,
                COLUMNS=_COLUMNS,
                CHANNELS=_CHANNELS,
            )
    fractions = (packed & ((1 << _COUNT_BIT) - 1)).sum(0).double() / (1 << bits)
    counts = (packed >> _COUNT_BIT).sum(0).double() - fractions
    counts[1:] += fractions[:-1]
    return counts


def accumulate_gradient(
    unit: Float[Tensor, "n d"], slope: Float[Tensor, " nodes"], share: Share
) -> Float[Tensor, "n d"]:
    """`passes.accumulate_gradient` of finite fp32 vectors on one device.

    A share holds whole rows here, with the pairs on both sides of them.
    """
    vectors, blocks = _padded(unit), row_blocks(len(unit), share)
    gradient = torch.zeros_like(vectors)
    if len(blocks):
        with torch.cuda.device_of(unit):
            _gradient_kernel[(len(blocks),)](
                vectors,
                value_and_rise(slope),
                gradient,
                len(unit),
                blocks.start,
                blocks.step,
                (len(slope) - 1) / 2,
                WIDTH=vectors.shape[1],
                PADDED=triton.next_power_of_2(vectors.shape[1]),
                ROWS=ROWS_PER_BLOCK,
                COLUMNS=_COLUMNS,
                CHANNELS=_CHANNELS,
            )
    return gradient[:, : unit.shape[1]].contiguous()


def _padded(unit: Tensor) -> Tensor:
    return torch.nn.functional.pad(unit.detach(), (0, -unit.shape[1] % _CHANNELS)).contiguous()
