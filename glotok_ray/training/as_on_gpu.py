"""A GPU's autocast and fused kernels on the meta device: which dtypes a pass computes in there, and what it keeps.

torch's fake tensors tell the same, and their import takes over a second: the tests compare the two.
Read next: glotok_ray/training/activations.py
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from glotok_ray.devices import meta_stands_for_gpu


def _functions(*names: str) -> frozenset[Callable[..., Any]]:
    """What torch calls by these names: as a function, as a method and in torch.nn.functional."""
    places = (torch, Tensor, F)
    return frozenset(
        getattr(place, name) for place in places for name in names if hasattr(place, name)
    )


# Those of https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior that models may call.
_IN_HALF = _functions(
    "linear",
    "bilinear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "mm",
    "mv",
    "bmm",
    "addmm",
    "addmv",
    "addbmm",
    "baddbmm",
    "einsum",
    "prelu",
)
_IN_FULL = _functions(
    "layer_norm",
    "group_norm",
    "rms_norm",
    "softmax",
    "log_softmax",
    "softplus",
    "interpolate",
    "normalize",
    "norm",
    "cosine_similarity",
    "cross_entropy",
    "nll_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
    "binary_cross_entropy_with_logits",
    "sum",
    "prod",
    "cumsum",
    "cumprod",
    "logsumexp",
    "exp",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "pow",
    "__pow__",
    "__rpow__",
    "square",
    "reciprocal",
    "rsqrt",
    "cosh",
    "sinh",
    "tan",
    "acos",
    "asin",
)


@contextmanager
def as_on_gpu(*, autocast: bool) -> Iterator[None]:
    """Within, tensors of the meta device are computed with as a GPU's, under `autocast` to bf16 if so asked."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", autocast)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with meta_stands_for_gpu(), _AsOnGPU():
            yield
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)


class _AsOnGPU(TorchFunctionMode):
    """Casts what functions are given as torch.autocast does, and puts a GPU's kernels in place of their parts."""

    def __init__(self) -> None:
        super().__init__()
        # Of a parameter its cast, made once; holding both keeps the id.
        self._cast: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cuda"):
            if func in _IN_HALF or func is F.scaled_dot_product_attention:
                half = torch.get_autocast_dtype("cuda")
                args, kwargs = self._as(half, args), self._as(half, kwargs)
            elif func in _IN_FULL:
                args, kwargs = self._as(torch.float32, args), self._as(torch.float32, kwargs)
        return _KERNELS.get(func, func)(*args, **kwargs)

    def _as(self, dtype: torch.dtype, arguments: Any) -> Any:
        def cast(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.dtype in (dtype, torch.float64):
                return tensor
            if not (tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float32):
                return tensor.to(dtype)
            if id(tensor) not in self._cast:
                self._cast[id(tensor)] = tensor, tensor.to(dtype)
            return self._cast[id(tensor)][1]

        return pytree.tree_map_only(Tensor, cast, arguments)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Which kernel does it is chosen where a GPU is. All keep their inputs, the result and a sum per query, never the
    scores.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention
    return kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """It keeps what it has left, a byte for each number."""
    return torch.native_dropout(input, p, training)[0] if training and p > 0 else input


def _rms_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    if weight is not None and weight.dtype != input.dtype:
        return F.rms_norm(input, normalized_shape, weight, eps)
    return _FusedRMSNorm.apply(input, weight)  # type: ignore[return-value]


class _FusedRMSNorm(torch.autograd.Function):
    """Keeps its input and a number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        inverse = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        ctx.save_for_backward(x, weight, inverse)
        return torch.empty_like(x)


def _convolution(input: Tensor, weight: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """Its result lies in memory as its input does, which the meta device does not say; else norms would copy it."""
    found = F.conv2d(input, weight, *arguments, **named)
    if input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last):
        return found.contiguous(memory_format=torch.channels_last)
    return found


_KERNELS = {
    F.conv2d: _convolution,
    F.scaled_dot_product_attention: _attention,
    F.dropout: _dropout,
    F.rms_norm: _rms_norm,
}
