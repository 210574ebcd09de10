"""The transformer block of FAR and of the GPTs, with its two kinds of causal attention.

One attends over the positions of an image, the other over the few codebooks of one position.
Source: LlamaGen (Sun et al. 2024), section 2.2; FQGAN (Bai et al. 2024) for the factorised head.
Read next: glotok_ray/nn/far.py
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.generator import FARConfig
from glotok_ray.nn.biased_blocks import BiasedAttention, BiasedMLP
from glotok_ray.nn.dropout import Dropout
from glotok_ray.nn.rotary import Rotation, rotate

_NORM_EPSILON = 1e-5


def learned_norm(width: int) -> nn.RMSNorm:
    """The RMSNorm with a weight that stands before attention, before the MLP and before the outputs."""
    return nn.RMSNorm(width, eps=_NORM_EPSILON)


def norm_of(config: FARConfig) -> nn.Module:
    """The norm of a config's blocks and before its outputs."""
    if config.variant.block == "gpt":
        return nn.LayerNorm(config.width, eps=_NORM_EPSILON)
    return learned_norm(config.width)


class PositionMemory(NamedTuple):
    """Keys and values of one block for all positions, and the position that comes next."""

    keys: Float[Tensor, "b heads positions width"]
    values: Float[Tensor, "b heads positions width"]
    position: int

    def extend(
        self, key: Float[Tensor, "b heads 1 width"], value: Float[Tensor, "b heads 1 width"]
    ) -> tuple[Tensor, Tensor]:
        """Write one position in place; returns the keys and values of it and of all before it."""
        end = self.position + 1
        self.keys[:, :, self.position : end] = key
        self.values[:, :, self.position : end] = value
        return self.keys[:, :, :end], self.values[:, :, :end]


class CodebookMemory:
    """Keys and values of one head block for the codebooks that one position has had so far.

    The first element of the sequence, the trunk's output, has a value alone: its key is zero.
    """

    def __init__(self) -> None:
        self.keys: list[Float[Tensor, "b heads width"]] = []
        self.values: list[Float[Tensor, "b heads width"]] = []


class _FusedAttention(nn.Module):
    """The weights of either attention: one product makes queries, keys and values."""

    def __init__(self, config: FARConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=False)
        self.projection = nn.Linear(config.width, config.width, bias=False)


class PositionAttention(_FusedAttention):
    """Causal multi-head attention over the positions of an image, rotary on queries and keys."""

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        rotation: Rotation,
        memory: PositionMemory | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Attend over the given positions; with `memory`, from one position to it and those before."""
        heads = self.query_key_value(tokens).unflatten(-1, (3 * self.num_heads, -1))
        turned = rotate(heads[:, :, : 2 * self.num_heads], rotation).transpose(1, 2)
        query, key = turned.chunk(2, dim=1)
        value = heads[:, :, 2 * self.num_heads :].transpose(1, 2)
        if memory is None:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            # All remembered positions are earlier ones, so no mask is needed.
            mixed = F.scaled_dot_product_attention(query, *memory.extend(key, value))
        return self.projection(mixed.transpose(1, 2).flatten(2))


class CodebookAttention(_FusedAttention):
    """Causal multi-head attention over the codebooks of one position, in closed form.

    The trunk's output leads the sequence. Its query and key are zero, as those of the class are in the trunk: it
    attends to itself alone, and all others give it the logit 0. So without gradients only its value is computed.
    """

    def forward(
        self,
        tokens: Float[Tensor, "b k d"],
        rotation: Rotation,
        memory: CodebookMemory | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Attend within each row of `tokens`; with `memory`, they follow those that it remembers and join them.

        `rotation` has a row for each element of the whole sequence, from its first one on.
        """
        memory = CodebookMemory() if memory is None else memory
        mixed = [self._attend(token, rotation, memory) for token in tokens.unbind(1)]
        return self.projection(torch.stack(mixed, dim=1))

    def _attend(self, token: Tensor, rotation: Rotation, memory: CodebookMemory) -> Tensor:
        place = len(memory.values)
        if place == 0:
            value = self._value(token)
            memory.values.append(value.unflatten(-1, (self.num_heads, -1)))
            return value
        heads = self.query_key_value(token).unflatten(-1, (3 * self.num_heads, -1))
        turned, value = heads.split((2 * self.num_heads, self.num_heads), dim=1)
        # Place 1 lies at the grid's origin, where every angle is zero.
        if place > 1:
            turned = rotate(turned.unsqueeze(1), rotation.part(slice(place, place + 1))).squeeze(1)
        query, key = turned.chunk(2, dim=1)
        memory.keys.append(key)
        memory.values.append(value)
        return attend_with_zero_logit(query, memory.keys, memory.values).flatten(1)

    def _value(self, token: Tensor) -> Tensor:
        start = 2 * token.shape[-1]
        if torch.is_grad_enabled():
            # ZeRO 3 brings a weight back for the backward pass of its own module alone.
            return self.query_key_value(token)[..., start:]
        return F.linear(token, self.query_key_value.weight[start:])


def attend_with_zero_logit(
    query: Float[Tensor, "b heads width"],
    keys: list[Float[Tensor, "b heads width"]],
    values: list[Float[Tensor, "b heads width"]],
) -> Float[Tensor, "b heads width"]:
    """Softmax attention of one query, in which values[0] has the logit 0 and values[i] that of keys[i - 1].

    Products of elements, in fp32 or better: no attention kernel is made for sequences of two or three.
    """
    precise = torch.promote_types(query.dtype, torch.float32)
    scaled = query.to(precise) / math.sqrt(query.shape[-1])
    scores = [(scaled * key).sum(dim=-1) for key in keys]
    weights = torch.stack([torch.zeros_like(scores[0]), *scores], dim=-1).softmax(dim=-1)
    parts = zip(weights.to(query.dtype).unbind(-1), values, strict=True)
    mixed = [weight.unsqueeze(-1) * value for weight, value in parts]
    return sum(mixed[1:], mixed[0])


Attention = PositionAttention | CodebookAttention | BiasedAttention


class SwiGLU(nn.Module):
    """down(SiLU(gate(x)) * value(x)), without biases."""

    def __init__(self, config: FARConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_hidden, bias=False)
        self.value = nn.Linear(config.width, config.mlp_hidden, bias=False)
        self.down = nn.Linear(config.mlp_hidden, config.width, bias=False)

    def forward(self, tokens: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        """Position-wise; the shape stays."""
        return self.down(F.silu(self.gate(tokens)) * self.value(tokens))


class Modulation(NamedTuple):
    """What the class does to one half of a block: scale and shift of its input, and the gate of its output."""

    gate: Float[Tensor, "b 1 d"]
    scale: Float[Tensor, "b 1 d"]
    shift: Float[Tensor, "b 1 d"]


class FARBlock(nn.Module):
    """Pre-norm: x += attention(norm(x)), then x += mlp(norm(x)), with dropout on what is added.

    With a modulation of the class, x += gate * f(norm(x) * (1 + scale) + shift) for both (AdaLN).
    """

    def __init__(self, config: FARConfig, attention: type[Attention]) -> None:
        super().__init__()
        is_gpt = config.variant.block == "gpt"
        self.attention_norm = norm_of(config)
        self.attention = attention(config)
        self.mlp_norm = norm_of(config)
        self.mlp = BiasedMLP(config.width, config.mlp_hidden) if is_gpt else SwiGLU(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        rotation: Rotation,
        memory: PositionMemory | CodebookMemory | None = None,
        modulation: Float[Tensor, "b 1 six_d"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Transform tokens, given those that `memory` holds, where there is one.

        `modulation` is the gates of attention and MLP, then their scales, then their shifts.
        """
        if modulation is None:
            mixed = self.attention(self.attention_norm(tokens), rotation, memory)
            tokens = tokens + self.dropout(mixed)
            return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))
        halves = modulation.unflatten(-1, (3, 2, -1)).unbind(-2)
        attention, mlp = (Modulation(*half.unbind(-2)) for half in halves)
        inner = self.attention_norm(tokens) * (1 + attention.scale) + attention.shift
        mixed = self.attention(inner, rotation, memory)
        tokens = tokens + attention.gate * self.dropout(mixed)
        inner = self.mlp_norm(tokens) * (1 + mlp.scale) + mlp.shift
        return tokens + mlp.gate * self.dropout(self.mlp(inner))
