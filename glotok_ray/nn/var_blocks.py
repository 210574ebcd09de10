"""The transformer block of VAR: normalised queries and keys, an MLP with biases, both modulated by the class.

Source: VAR (Tian et al. 2024), section 3.3 and its released configuration.
Read next: glotok_ray/nn/var.py
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glotok_ray.config.var import VARConfig

_NORM_EPSILON = 1e-6
_FIRST_HEAD_SCALE = math.log(4)
_LARGEST_HEAD_SCALE = math.log(100)
_SHORTEST = 1e-12
"""Lengths below it count as it, as in `F.normalize`."""


def plain_norm(tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """LayerNorm without weights."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=_NORM_EPSILON)


def modulated(
    tokens: Float[Tensor, "b n d"], scale: Float[Tensor, "b 1 d"], shift: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b n d"]:
    """norm(x) * (1 + scale) + shift."""
    return _plus_product(shift, plain_norm(tokens), 1 + scale)


class ScaleMemory(NamedTuple):
    """Keys and values of one block for all tokens, and the place of the first token of the scale at hand."""

    keys: Float[Tensor, "b heads n width"]
    values: Float[Tensor, "b heads n width"]
    start: int

    def extend(
        self, key: Float[Tensor, "b heads m width"], value: Float[Tensor, "b heads m width"]
    ) -> tuple[Tensor, Tensor]:
        """Write one scale in place; returns the keys and values of it and of all before it."""
        end = self.start + key.shape[2]
        self.keys[:, :, self.start : end] = key
        self.values[:, :, self.start : end] = value
        return self.keys[:, :, :end], self.values[:, :, :end]


class NormalizedAttention(nn.Module):
    """Attention whose queries and keys have length 1; a learned number per head scales the logits, up to 100."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.head_scale = nn.Parameter(torch.full((config.num_heads,), _FIRST_HEAD_SCALE))
        self.projection = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        seen: Bool[Tensor, "n n"] | None,
        memory: ScaleMemory | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Attend where `seen`; with `memory`, from one scale to all of it and of those before."""
        query, key, value = self.query_key_value(tokens).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (
                query + self.query_bias.to(query.dtype),
                key,
                value + self.value_bias.to(value.dtype),
            )
        )
        strength = self.head_scale.clamp_max(_LARGEST_HEAD_SCALE).exp().view(-1, 1, 1)
        # Norms in fp32 or better, and attention wants one dtype.
        precise = torch.promote_types(value.dtype, torch.float32)
        query = _of_length(query.to(precise), strength).to(value.dtype)
        key = _of_length(key.to(precise)).to(value.dtype)
        if memory is not None:
            key, value = memory.extend(key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=1.0)
        return self.projection(mixed.transpose(1, 2).flatten(2))


class VARBlock(nn.Module):
    """x += gate * f(norm(x) * (1 + scale) + shift) of attention, then of the MLP; left out at times in training."""

    def __init__(self, config: VARConfig, skip_probability: float) -> None:
        super().__init__()
        width = config.width
        self.skip_probability = skip_probability
        if config.modulation == "shared":
            self.modulation_offset = nn.Parameter(torch.zeros(6, width))
        else:
            self.modulation = nn.Linear(width, 6 * width)
        self.attention = NormalizedAttention(config)
        self.mlp_first = nn.Linear(width, 4 * width)
        self.mlp_second = nn.Linear(4 * width, width)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        modulation: Float[Tensor, "b 6 d"],
        seen: Bool[Tensor, "n n"] | None,
        memory: ScaleMemory | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`modulation` is the gates of attention and MLP, then their scales, then their shifts."""
        gate1, gate2, scale1, scale2, shift1, shift2 = modulation.unsqueeze(2).unbind(1)
        found = self.attention(modulated(tokens, scale1, shift1), seen, memory)
        tokens = _plus_product(tokens, self._kept(gate1), found)
        found = self.mlp_second(_gelu(self.mlp_first(modulated(tokens, scale2, shift2))))
        return _plus_product(tokens, self._kept(gate2), found)

    def _kept(self, gate: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b 1 d"]:
        """Zero for some images in training, and larger for the others."""
        if not self.training or self.skip_probability == 0:
            return gate
        share = 1 - self.skip_probability
        kept = torch.rand(len(gate), 1, 1, device=gate.device) < share
        return gate * kept / share


def _plus_product(base: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """base + one * other, in one pass where no gradient asks for it: autocast has `addcmul` keep factors in fp32."""
    if torch.is_grad_enabled():
        return base + one * other
    return torch.addcmul(base, one, other)


def _gelu(hidden: Tensor) -> Tensor:
    """The tanh form, in place where no gradient asks for the input: this is a block's largest array, and on CPUs fresh
    memory for a second one costs a twentieth of the block's time.
    """
    if torch.is_grad_enabled():
        return F.gelu(hidden, approximate="tanh")
    return torch.ops.aten.gelu_(hidden, approximate="tanh")


def _of_length(vectors: Tensor, length: Tensor | float = 1.0) -> Tensor:
    """Each vector at this length instead of its own, as `F.normalize`, in one pass less."""
    own = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors * (length / own.clamp_min(_SHORTEST))
