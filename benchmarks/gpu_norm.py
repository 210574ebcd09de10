"""GroupNorm and SiLU on channels_last maps, checked against fp64 and timed beside torch's own.

A section of `benchmarks.gpu_check`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu_place import RATIO, Place, Row
from glotok_ray.nn import group_norm as nn_group_norm
from glotok_ray.nn.blocks import group_norm
from glotok_ray.nn.group_norm import GroupNorm

_GROUPS = 32
# The widest map of glotok_16k and its narrowest, at a worker's share of the paper's batch.
_SHAPES = ((30, 128, 256, 256), (30, 512, 16, 16))
_NAMES = ("result", "gradient of the map", "gradient of the weight", "gradient of the bias")

Function = Callable[[Tensor], Tensor]


def normalization(place: Place) -> Iterator[Row]:
    """The kernels' error beside torch's, equal bits, and the time of both directions."""
    if place.on_gpu:
        yield Row(
            "Triton works", float(nn_group_norm._triton_works(torch.cuda.current_device())), ""
        )
    for shape in _SHAPES:
        yield from _errors(place, (4, *shape[1:]) if not place.tiny else (1, 64, 8, 8))
    for shape in _SHAPES:
        yield from _times(place, shape if not place.tiny else (2, 64, 8, 8))


def _at_hand(place: Place, shape: tuple[int, ...]) -> tuple[GroupNorm, Tensor, Tensor]:
    """A norm, a map in bf16 whose mean is no zero, and a gradient at the result."""
    torch.manual_seed(0)
    norm = group_norm(shape[1], _GROUPS)
    nn.init.normal_(norm.weight, 1.0, 0.2)
    norm = norm.to(place.torch_device)
    x = (torch.randn(shape, device=place.torch_device) + 1.5).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    return norm, x, torch.randn_like(x)


def _autocast(place: Place) -> AbstractContextManager[object]:
    return torch.autocast(place.device, torch.bfloat16)


def _torchs(norm: GroupNorm) -> Function:
    """What the blocks would do without the kernels; the convolution that follows reads bf16."""

    def normalize(x: Tensor) -> Tensor:
        normed = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return F.silu(normed).bfloat16()

    return normalize


def _errors(place: Place, shape: tuple[int, ...]) -> Iterator[Row]:
    norm, x, gradient = _at_hand(place, shape)
    size = "x".join(map(str, shape))

    def found(function: Function, owner: nn.Module, x: Tensor) -> list[Tensor]:
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        with _autocast(place):
            y = function(leaf)
        return [
            y.detach(),
            *torch.autograd.grad(y, (leaf, *owner.parameters()), gradient.to(y.dtype)),
        ]

    exact = group_norm(shape[1], _GROUPS).to(place.torch_device, torch.float64)
    exact.load_state_dict(norm.state_dict())
    with torch.autocast(place.device, enabled=False):
        leaf = x.double().requires_grad_()
        y = exact(leaf)
        reference = [
            y.detach(),
            *torch.autograd.grad(y, (leaf, *exact.parameters()), gradient.double()),
        ]
    ours, again, theirs = found(norm, norm, x), found(norm, norm, x), found(_torchs(norm), norm, x)
    for name, mine, other, right in zip(_NAMES, ours, theirs, reference, strict=True):
        errors = [float((one.double() - right).norm() / right.norm()) for one in (mine, other)]
        yield Row(f"error of the {name}, {size}", errors[0], "", f"torch's is {errors[1]:.2g}")
    alike = all(torch.equal(*pair) for pair in zip(ours, again, strict=True))
    yield Row(f"equal bits in two runs, {size}", float(alike), "")


def _times(place: Place, shape: tuple[int, ...]) -> Iterator[Row]:
    norm, x, gradient = _at_hand(place, shape)
    size = "x".join(map(str, shape))
    repeats, totals = place.size(20, 1), []
    for name, function in (("kernels", norm), ("torch", _torchs(norm))):
        leaf = x.detach().requires_grad_()

        def forward(function: Function = function, leaf: Tensor = leaf) -> Tensor:
            with _autocast(place):
                return function(leaf)

        y = forward()

        def backward(y: Tensor = y, leaf: Tensor = leaf) -> object:
            inputs = (leaf, norm.weight, norm.bias)
            return torch.autograd.grad(y, inputs, gradient, retain_graph=True)

        seconds = [place.seconds(action, repeats, 2) for action in (forward, backward)]
        yield Row(f"{name}, forward, {size}", 1e3 * seconds[0], "ms")
        yield Row(f"{name}, backward, {size}", 1e3 * seconds[1], "ms")
        totals.append(sum(seconds))
    # A map of bf16 is read twice and written once, then it and its gradient are read twice and one is written.
    yield Row(f"kernels, memory, {size}", 16 * x.numel() / totals[0] / 1e9, "GB/s", "of both ways")
    yield Row(f"torch / kernels, time, {size}", totals[1] / totals[0], RATIO)
