"""The meta device, whose tensors have shapes and dtypes alone, without the wait for its first operation.

Read next: glotok_ray/training/activations.py
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
import torch._compile
from torch.overrides import TorchFunctionMode

# What initialisations call on parameters.
_FILLING = frozenset(
    [
        "add_",
        "clamp_",
        "constant_",
        "div_",
        "erfinv_",
        "fill_",
        "kaiming_uniform_",
        "mul_",
        "normal_",
        "trunc_normal_",
        "uniform_",
        "xavier_uniform_",
        "zero_",
    ]
)
# Where torch/_compile.py keeps what the compiler has made of a function that it must leave alone.
_LEFT_ALONE = "__dynamo_disable"


@contextmanager
def on_meta_device() -> Iterator[None]:
    """What is made within is on the meta device.

    Its operations are written in Python, and each asks torch's compiler to leave it alone when it is first called, for
    which the compiler would be imported: over a second. Nothing is compiled here, so they are called as they are.
    """
    functions = {
        id(each): each for each in _operations() if not hasattr(each, _LEFT_ALONE)
    }.values()
    for function in functions:
        setattr(function, _LEFT_ALONE, function)
    try:
        with torch.device("meta"):
            yield
    finally:
        for function in functions:
            delattr(function, _LEFT_ALONE)


class LeftUnfilled(TorchFunctionMode):
    """Within, on the meta device, parameters are not filled: they have no numbers, and the first operation that is
    written in Python imports sympy, which takes half a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        filled = named.get("tensor", args[0] if args else None)
        if getattr(func, "__name__", "") in _FILLING and filled is not None and filled.is_meta:
            return filled
        return func(*args, **named)


@functools.cache
def _operations() -> list[Callable[..., Any]]:
    """The functions that torch's references hand to the compiler."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith(("torch._refs", "torch._decomp", "torch._meta_registrations")):
            for function in list(vars(module).values()):
                found += _handed_over(function)
    return found


def _handed_over(function: Any) -> Iterator[Callable[..., Any]]:
    """Those among a function and all that it wraps: torch's wrappers all call it "fn", and torch/_compile.py hands it
    over.
    """
    while isinstance(function, FunctionType):
        code, cells = function.__code__, function.__closure__ or ()
        inner = dict(zip(code.co_freevars, cells, strict=True)).get("fn")
        function = inner.cell_contents if inner is not None else None
        if code.co_filename == torch._compile.__file__:
            yield function
