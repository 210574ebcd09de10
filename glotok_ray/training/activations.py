"""What a forward pass leaves for its backward pass, in bytes: counted on tensors without numbers, on any machine.

For a CPU on the meta device. For a GPU on torch's fake tensors, which pass for CUDA's: autocast casts as it does there,
and attention and GroupNorm keep what their fused kernels keep.
Read next: glotok_ray/training/memory.py
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from glotok_ray.config.training import ScalingConfig
from glotok_ray.nn.recompute import recompute_activations, recomputing_blocks

Inputs = Callable[[int], tuple[Tensor, ...]]


class Kept(NamedTuple):
    """Bytes that stay between the passes, parameters apart."""

    per_image: float
    once: float = 0.0
    """However large the batch is: weights that autocast has cast, and tables."""

    def of_batch(self, images: int) -> float:
        """Of one micro batch."""
        return self.once + images * self.per_image


def kept_by_forward(
    make: Callable[[], nn.Module], inputs: Inputs, scaling: ScalingConfig
) -> tuple[nn.Module, Kept]:
    """A module as `scaling` trains it, without numbers, and what a pass over it keeps; `inputs` makes those of so many
    images, the first of which are floating point.
    """
    with _without_numbers(scaling):
        module = make()
        if scaling.activation_checkpointing:
            recompute_activations(module)
        first = saved_bytes(module, *inputs(1))
        if not scaling.use_gpu:
            # The meta device knows no autocast; half of what it counts in fp32 is what a CPU's would keep.
            return module, Kept((0.5 if scaling.precision == "bf16_autocast" else 1.0) * first)
        more = saved_bytes(module, *inputs(2)) - first
    return module, Kept(more, first - more)


def saved_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that one forward pass leaves for the backward pass, parameters apart: what autograd keeps, and what enters
    blocks that recompute (nn/recompute.py).
    """
    own = {id(parameter) for parameter in module.parameters()}
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # holding them keeps their ids apart

    def pack(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(tensor) not in own and id(base) not in own:
            kept.append(base)
            seen[id(base)] = base.numel() * base.element_size()
        return tensor

    def keep_input(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        pack(arguments[0])

    handles = [block.register_forward_pre_hook(keep_input) for block in recomputing_blocks(module)]
    module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(*inputs)
    for handle in handles:
        handle.remove()
    return sum(seen.values())


@contextmanager
def _without_numbers(scaling: ScalingConfig) -> Iterator[None]:
    """What is made within has shapes and dtypes alone, on the device and in the precision of a training."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if scaling.use_gpu:
            stack.enter_context(FakeTensorMode())
            stack.enter_context(_FusedAttention())
            stack.enter_context(torch.device("cuda"))
            if scaling.precision == "bf16_autocast":
                stack.enter_context(_autocast_of_cuda())
        else:
            stack.enter_context(torch.device("meta"))
        stack.callback(torch.set_default_dtype, dtype)
        if scaling.precision == "bf16":
            torch.set_default_dtype(torch.bfloat16)
        yield


@contextmanager
def _autocast_of_cuda() -> Iterator[None]:
    """torch.autocast("cuda", torch.bfloat16), which switches itself off where there is no GPU."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)


class _FusedAttention(TorchFunctionMode):
    """Attention as CUDA's kernels do it, which one is chosen only where a GPU is; all keep the same."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """It keeps its inputs, its result and a sum per query, never the scores."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = (part.to(dtype) for part in (query, key, value))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention
    return kernel(query, key, value, dropout_p, is_causal)[0]
