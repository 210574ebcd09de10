"""What a forward pass leaves for its backward pass, in bytes: counted on tensors without numbers, on any machine.

They are of the meta device. For a GPU autocast casts as it does there, and fused kernels keep what they keep there.
Read next: glotok_ray/training/as_on_gpu.py
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from glotok_ray.config.training import ScalingConfig
from glotok_ray.nn.recompute import keep_nothing_inside, recomputing_blocks
from glotok_ray.training.as_on_gpu import as_on_gpu
from glotok_ray.training.counts import Kept
from glotok_ray.training.without_numbers import on_meta_device

Inputs = Callable[[int], tuple[Tensor, ...]]
# Images of the counted pass: the first of these primes that divides no weight's size. A tensor whose size it divides
# has a part per image, any other is there once. A second pass, of another batch, would tell the same in twice the time.
_IMAGES = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271)


def kept_by_forward(
    make: Callable[[], nn.Module], inputs: Inputs, scaling: ScalingConfig
) -> tuple[nn.Module, Kept]:
    """A module as `scaling` trains it, without numbers, and what a pass over it keeps; `inputs` makes those of so many
    images, the first of which are floating point.
    """
    with _without_numbers(scaling):
        module = make()
        if scaling.activation_checkpointing:
            keep_nothing_inside(module)
        if not scaling.use_gpu:
            # The meta device knows no autocast; half of what it counts in fp32 is what a CPU's would keep.
            share = 0.5 if scaling.precision == "bf16_autocast" else 1.0
            return module, Kept(share * saved_bytes(module, *inputs(1)))
        sizes = {tensor.numel() for tensor in (*module.parameters(), *module.buffers())}
        count = next(prime for prime in _IMAGES if all(size % prime for size in sizes - {0}))
        kept = _saved(module, *inputs(count))
    of_images = sum(_bytes(tensor) for tensor in kept if tensor.numel() % count == 0)
    return module, Kept(of_images / count, sum(map(_bytes, kept)) - of_images)


def saved_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that one forward pass leaves for the backward pass, parameters apart: what autograd keeps, and what enters
    blocks that recompute (nn/recompute.py).
    """
    return sum(map(_bytes, _saved(module, *inputs)))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _saved(module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Each tensor that is kept, once."""
    own = {id(parameter) for parameter in module.parameters()}
    seen: dict[int, Tensor] = {}  # holding them keeps their ids apart

    def pack(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(tensor) not in own and id(base) not in own:
            seen[id(base)] = base
        return tensor

    def keep_input(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        pack(arguments[0])

    handles = [block.register_forward_pre_hook(keep_input) for block in recomputing_blocks(module)]
    module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(*inputs)
    for handle in handles:
        handle.remove()
    return list(seen.values())


@contextmanager
def _without_numbers(scaling: ScalingConfig) -> Iterator[None]:
    """What is made within has shapes and dtypes alone, on the device and in the precision of a training."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(on_meta_device())
        if scaling.use_gpu:
            stack.enter_context(as_on_gpu(autocast=scaling.precision == "bf16_autocast"))
        stack.callback(torch.set_default_dtype, dtype)
        if scaling.precision == "bf16":
            torch.set_default_dtype(torch.bfloat16)
        yield
