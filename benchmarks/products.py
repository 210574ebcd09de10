"""The matrix products of an action: recorded as it runs, counted, and run again alone, which bounds its time."""

import math
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_PLAIN = {_ATEN.mm.default, _ATEN.addmm.default, _ATEN.bmm.default}
# Fused attention as products of one shape: scores and mixture; with its gradients also those of queries, keys, values,
# and of the weights, and the scores once more.
_FUSED = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default: (0, 2),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default: (1, 5),
}

Layout = tuple[tuple[int, ...], tuple[int, ...]]


class Products(TorchDispatchMode):
    """Records every matrix product that runs inside it, those of the backward pass and of attention included."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Any, tuple[Layout, ...]]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note shapes and strides, then do what was asked."""
        if func in _PLAIN:
            self.counts[func, _layouts(args)] += 1
        elif func in _FUSED:
            first, times = _FUSED[func]
            query, key = args[first : first + 2]
            pair = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
            self.counts[_ATEN.bmm.default, _layouts(pair)] += times
        return func(*args, **(kwargs or {}))

    @property
    def operations(self) -> int:
        """Multiplications and additions of all products."""
        return sum(count * _operations(layouts) for (_, layouts), count in self.counts.items())

    def seconds(self) -> float:
        """Of all products alone, each as often as it was recorded, on operands that may stay in a cache."""
        total = 0.0
        for (func, layouts), count in self.counts.items():
            operands = [_operand(*layout) for layout in layouts]
            func(*operands)
            start = time.perf_counter()
            for _ in range(count):
                func(*operands)
            total += time.perf_counter() - start
        return total


def _layouts(args: tuple[Any, ...]) -> tuple[Layout, ...]:
    return tuple((tuple(each.shape), each.stride()) for each in args if isinstance(each, Tensor))


def _operations(layouts: tuple[Layout, ...]) -> int:
    (left, _), (right, _) = layouts[-2:]
    return 2 * math.prod(left) * right[-1]


def _operand(shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    length = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(length).as_strided(shape, stride)
