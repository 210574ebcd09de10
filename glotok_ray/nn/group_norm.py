"""GroupNorm, and SiLU after it where asked: the module that all convolutional blocks use.

On CUDA torch would turn channels_last maps into NCHW, compute in fp32 under autocast, and keep the fp32 maps for the
backward pass. Triton kernels (group_norm_cuda.py) read and write channels_last in the maps' own dtype, and keep their
input alone. Everywhere else, in fp64, and while torch.compile traces, which fuses the two by itself, it is torch's own.
Read next: glotok_ray/nn/group_norm_kernels.py
"""

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.devices import device_type, kernel_works

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm with the same parameters, which may apply SiLU to its result."""

    def __init__(self, channels: int, groups: int, *, eps: float, silu: bool) -> None:
        super().__init__(groups, channels, eps=eps)
        self.silu = silu

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape; by the kernels in channels_last, and under autocast in the dtype that convolutions compute in."""
        if _by_kernels(input):
            return fused_group_norm(
                input,
                self.weight,
                self.bias,
                num_groups=self.num_groups,
                eps=self.eps,
                silu=self.silu,
            )
        normed = super().forward(input)
        return F.silu(normed) if self.silu else normed

    def extra_repr(self) -> str:
        """As torch's, with the activation."""
        return f"{super().extra_repr()}, silu={self.silu}"


def fused_group_norm(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    *,
    num_groups: int,
    eps: float,
    silu: bool,
) -> Float[Tensor, "b c h w"]:
    """GroupNorm by the kernels, for the first order of gradients; statistics and sums in fp32."""
    # Autocast acts on torch's own operations alone, so it is asked here what it would feed to a convolution.
    device = device_type(x.device)
    autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    return _FusedGroupNorm.apply(x, weight, bias, num_groups, eps, silu, dtype)  # type: ignore[return-value]


class _FusedGroupNorm(torch.autograd.Function):
    """Keeps its input and the groups' statistics; SiLU's input is computed again from them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        num_groups: int,
        eps: float,
        silu: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        kernels = _kernels(x)
        x = x.contiguous(memory_format=torch.channels_last)
        with _on_device_of(x):
            y, mean, rstd = kernels.forward(x, weight, bias, num_groups, eps, silu, dtype)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.silu = silu
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "GroupNorm by Triton kernels: its gradient has no gradient of its own (create_graph=True); call the "
                "module's functional form, torch.nn.functional.group_norm, instead"
            )
        x, weight, bias, mean, rstd = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        with _on_device_of(x):
            found = _kernels(x).backward(gradient, x, weight, bias, mean, rstd, ctx.silu)
        return *found, None, None, None, None


class _Shapes:
    """What the forward kernels would give, without numbers: for tensors that have none."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        num_groups: int,
        eps: float,
        silu: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the result, the means and the inverse deviations."""
        statistics = x.new_empty(2, len(x), num_groups, dtype=torch.float32)
        return torch.empty_like(x, dtype=dtype), statistics[0], statistics[1]


def _on_device_of(x: Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device, whichever holds the tensors; nothing changes for tensors of a CPU."""
    return nullcontext() if _without_numbers(x) else torch.cuda.device_of(x)


def _kernels(x: Tensor) -> Any:
    if _without_numbers(x):
        return _Shapes
    from glotok_ray.nn import group_norm_cuda

    return group_norm_cuda


def _by_kernels(x: Tensor) -> bool:
    if device_type(x.device) != "cuda" or x.ndim != 4 or x.dtype not in _DTYPES or not x.numel():
        return False
    if torch.compiler.is_compiling():
        return False
    return _without_numbers(x) or _triton_works(x.device.index)


def _without_numbers(x: Tensor) -> bool:
    """Whether it has a shape alone: on the meta device, where a training's memory is counted (training/as_on_gpu.py),
    or as one of torch's fake tensors.
    """
    return x.is_meta or isinstance(x, torch._subclasses.FakeTensor)


@functools.cache
def _triton_works(device: int) -> bool:
    """Whether the kernels run on this GPU; only an answer is remembered, and no error."""

    def probe() -> None:
        from glotok_ray.nn import group_norm_cuda

        x = torch.ones(1, 2, 1, 1, device=f"cuda:{device}")
        with _on_device_of(x):
            group_norm_cuda.forward(x, x.flatten(), x.flatten(), 1, 1e-6, True, torch.float32)

    return kernel_works(
        probe,
        device=device,
        what="GroupNorm",
        instead="torch computes it, several times as slowly and with more memory",
    )
