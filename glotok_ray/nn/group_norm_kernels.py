"""The Triton kernels of GroupNorm and SiLU on channels_last maps, three for each direction (group_norm_cuda.py).

A map is (images, positions, channels) in memory. A program has a span of positions of one image and a block of
channels, or in the merging kernels one group of one image.
Read next: glotok_ray/nn/group_norm_cuda.py
"""

from typing import Any

import triton
import triton.language as tl

# Compile-time numbers are annotated for Triton, which confuses type checkers at the launches.
_kernel: Any = triton.jit


@_kernel
def moments_kernel(
    x_ptr,
    mean_ptr,
    square_ptr,
    positions,
    WIDTH: tl.constexpr,  # noqa: N803
    SPAN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Per channel of one span: the mean, and the sum of squared distances from it."""
    span, image = tl.program_id(0), tl.program_id(1)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    start = span * SPAN
    length = tl.minimum(positions - start, SPAN)
    x_ptr += (image.to(tl.int64) * positions + start) * WIDTH
    # Every place of the tile follows its own mean (Welford), so that a large mean cancels nothing.
    count = tl.zeros((ROWS, 1), tl.float32)
    mean = tl.zeros((ROWS, CHANNELS), tl.float32)
    square = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(0, length, ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < length)[:, None] & (channels < WIDTH)[None, :]
        x = tl.load(x_ptr + rows[:, None] * WIDTH + channels[None, :], mask=mask, other=0.0)
        count += tl.where(rows < length, 1.0, 0.0)[:, None]
        distance = tl.where(mask, x.to(tl.float32) - mean, 0.0)
        moved = mean + distance * (1.0 / tl.maximum(count, 1.0))
        square += distance * tl.where(mask, x.to(tl.float32) - moved, 0.0)
        mean = moved
    # Moved to one place's mean first, for the same reason; the first place has seen a position.
    shift = tl.sum(tl.where((tl.arange(0, ROWS) == 0)[:, None], mean, 0.0), axis=0)
    distance = mean - shift[None, :]  # pyright: ignore[reportArgumentType]
    common = tl.sum(count * distance, axis=0) / length
    square = tl.sum(square + count * (distance - common[None, :]) * (distance - common[None, :]), 0)
    partial = (image.to(tl.int64) * tl.num_programs(0) + span) * WIDTH + channels
    tl.store(mean_ptr + partial, shift + common, mask=channels < WIDTH)
    tl.store(square_ptr + partial, square, mask=channels < WIDTH)


@_kernel
def merge_moments_kernel(  # noqa: PLR0913
    mean_ptr,
    square_ptr,
    group_mean_ptr,
    group_rstd_ptr,
    positions,
    spans,
    numbers,
    eps,
    WIDTH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    SPAN: tl.constexpr,  # noqa: N803
    MERGED: tl.constexpr,  # noqa: N803
):
    """Mean and inverse deviation of one group of one image."""
    group, image = tl.program_id(0), tl.program_id(1)
    members = tl.arange(0, PADDED)
    base = image.to(tl.int64) * spans * WIDTH + group * GROUP
    shift = tl.load(mean_ptr + base)
    total = tl.zeros((MERGED, PADDED), tl.float32)
    for first in range(0, spans, MERGED):
        rows = first + tl.arange(0, MERGED)
        mask = (rows < spans)[:, None] & (members < GROUP)[None, :]
        length = tl.minimum(positions - rows * SPAN, SPAN).to(tl.float32)[:, None]
        offsets = base + rows[:, None] * WIDTH + members[None, :]
        mean = tl.load(mean_ptr + offsets, mask=mask, other=0.0)
        total += tl.where(mask, length * (mean - shift), 0.0)
    common = tl.sum(tl.sum(total, axis=1), axis=0) / numbers
    total = tl.zeros((MERGED, PADDED), tl.float32)
    for first in range(0, spans, MERGED):
        rows = first + tl.arange(0, MERGED)
        mask = (rows < spans)[:, None] & (members < GROUP)[None, :]
        length = tl.minimum(positions - rows * SPAN, SPAN).to(tl.float32)[:, None]
        offsets = base + rows[:, None] * WIDTH + members[None, :]
        distance = tl.load(mean_ptr + offsets, mask=mask, other=0.0) - shift - common
        square = tl.load(square_ptr + offsets, mask=mask, other=0.0)
        total += tl.where(mask, square + length * distance * distance, 0.0)
    variance = tl.sum(tl.sum(total, axis=1), axis=0) / numbers
    place = image * tl.num_programs(0) + group
    tl.store(group_mean_ptr + place, shift + common)
    tl.store(group_rstd_ptr + place, 1.0 / tl.sqrt(variance + eps))


@_kernel
def _of_channels(ptr, image, channels, WIDTH: tl.constexpr, GROUP: tl.constexpr):  # noqa: N803
    """A number per group of one image, as its channels see it."""
    places = image * (WIDTH // GROUP) + channels // GROUP
    return tl.load(ptr + places, mask=channels < WIDTH, other=0.0)[None, :]


@_kernel
def _of_parameter(ptr, channels, WIDTH: tl.constexpr):  # noqa: N803
    return tl.load(ptr + channels, mask=channels < WIDTH, other=0.0).to(tl.float32)[None, :]


@_kernel
def normalize_kernel(  # noqa: PLR0913
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    y_ptr,
    positions,
    SILU: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    SPAN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    span, image = tl.program_id(0), tl.program_id(1)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    mean = _of_channels(mean_ptr, image, channels, WIDTH, GROUP)
    rstd = _of_channels(rstd_ptr, image, channels, WIDTH, GROUP)
    weight = _of_parameter(weight_ptr, channels, WIDTH)
    bias = _of_parameter(bias_ptr, channels, WIDTH)
    start = span * SPAN
    length = tl.minimum(positions - start, SPAN)
    base = (image.to(tl.int64) * positions + start) * WIDTH
    for first in range(0, length, ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < length)[:, None] & (channels < WIDTH)[None, :]
        offsets = rows[:, None] * WIDTH + channels[None, :]
        x = tl.load(x_ptr + base + offsets, mask=mask, other=0.0).to(tl.float32)
        y = (x - mean) * rstd * weight + bias
        if SILU:
            y = y * tl.sigmoid(y)
        tl.store(y_ptr + base + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@_kernel
def _at_norm(gradient, normed, weight, bias, SILU: tl.constexpr):  # noqa: N803
    """The gradient at the result of the norm, of the one at the result of SiLU."""
    if SILU:
        y = normed * weight + bias
        sigmoid = tl.sigmoid(y)
        gradient = gradient * sigmoid * (1.0 + y * (1.0 - sigmoid))
    return gradient


@_kernel
def sums_kernel(  # noqa: PLR0913
    gradient_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    sum_ptr,
    product_ptr,
    positions,
    SILU: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    SPAN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Per channel of one span: the sum of the gradients at the norm, and of their products with what was normed."""
    span, image = tl.program_id(0), tl.program_id(1)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    mean = _of_channels(mean_ptr, image, channels, WIDTH, GROUP)
    rstd = _of_channels(rstd_ptr, image, channels, WIDTH, GROUP)
    weight = _of_parameter(weight_ptr, channels, WIDTH)
    bias = _of_parameter(bias_ptr, channels, WIDTH)
    start = span * SPAN
    length = tl.minimum(positions - start, SPAN)
    base = (image.to(tl.int64) * positions + start) * WIDTH
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    product = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(0, length, ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < length)[:, None] & (channels < WIDTH)[None, :]
        offsets = rows[:, None] * WIDTH + channels[None, :]
        x = tl.load(x_ptr + base + offsets, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_ptr + base + offsets, mask=mask, other=0.0).to(tl.float32)
        normed = (x - mean) * rstd
        gradient = _at_norm(gradient, normed, weight, bias, SILU)
        # What is not there may be normed to anything, even to no number.
        total += tl.where(mask, gradient, 0.0)
        product += tl.where(mask, gradient * normed, 0.0)
    partial = (image.to(tl.int64) * tl.num_programs(0) + span) * WIDTH + channels
    tl.store(sum_ptr + partial, tl.sum(total, axis=0), mask=channels < WIDTH)
    tl.store(product_ptr + partial, tl.sum(product, axis=0), mask=channels < WIDTH)


@_kernel
def merge_sums_kernel(  # noqa: PLR0913
    sum_ptr,
    product_ptr,
    weight_ptr,
    channel_ptr,
    group_ptr,
    spans,
    numbers,
    WIDTH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    MERGED: tl.constexpr,  # noqa: N803
):
    """Both sums of an image's channels, and their weighted means over one group."""
    group, image, images = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    members = tl.arange(0, PADDED)
    base = image.to(tl.int64) * spans * WIDTH + group * GROUP
    total = tl.zeros((MERGED, PADDED), tl.float32)
    product = tl.zeros((MERGED, PADDED), tl.float32)
    for first in range(0, spans, MERGED):
        rows = first + tl.arange(0, MERGED)
        mask = (rows < spans)[:, None] & (members < GROUP)[None, :]
        offsets = base + rows[:, None] * WIDTH + members[None, :]
        total += tl.load(sum_ptr + offsets, mask=mask, other=0.0)
        product += tl.load(product_ptr + offsets, mask=mask, other=0.0)
    total, product = tl.sum(total, axis=0), tl.sum(product, axis=0)
    channels = image * WIDTH + group * GROUP + members
    tl.store(channel_ptr + channels, product, mask=members < GROUP)
    tl.store(channel_ptr + images * WIDTH + channels, total, mask=members < GROUP)
    weight = tl.load(weight_ptr + group * GROUP + members, mask=members < GROUP, other=0.0)
    weight = weight.to(tl.float32)
    place = image * tl.num_programs(0) + group
    tl.store(group_ptr + place, tl.sum(weight * total, axis=0) / numbers)
    place += images * tl.num_programs(0)
    tl.store(group_ptr + place, tl.sum(weight * product, axis=0) / numbers)


@_kernel
def gradient_kernel(  # noqa: PLR0913
    gradient_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    group_ptr,
    found_ptr,
    positions,
    SILU: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    SPAN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """rstd (weight g - mean(weight g) - normed mean(weight g normed)), g the gradient at the norm."""
    span, image, images = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    mean = _of_channels(mean_ptr, image, channels, WIDTH, GROUP)
    rstd = _of_channels(rstd_ptr, image, channels, WIDTH, GROUP)
    along_one = _of_channels(group_ptr, image, channels, WIDTH, GROUP)
    along_normed = _of_channels(group_ptr, images + image, channels, WIDTH, GROUP)
    weight = _of_parameter(weight_ptr, channels, WIDTH)
    bias = _of_parameter(bias_ptr, channels, WIDTH)
    start = span * SPAN
    length = tl.minimum(positions - start, SPAN)
    base = (image.to(tl.int64) * positions + start) * WIDTH
    for first in range(0, length, ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < length)[:, None] & (channels < WIDTH)[None, :]
        offsets = rows[:, None] * WIDTH + channels[None, :]
        x = tl.load(x_ptr + base + offsets, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_ptr + base + offsets, mask=mask, other=0.0).to(tl.float32)
        normed = (x - mean) * rstd
        gradient = _at_norm(gradient, normed, weight, bias, SILU) * weight
        found = rstd * (gradient - along_one - normed * along_normed)
        tl.store(found_ptr + base + offsets, found.to(found_ptr.dtype.element_ty), mask=mask)
