"""The transformer block of xAR: block-causal attention and a gated MLP, modulated per cell (AdaLN).

A token sees all tokens of its own and of earlier cells; time and class enter by modulation alone.
Source: xAR (Ren et al. 2025), section 3.2 and its released configuration.
Read next: glotok_ray/nn/xar.py
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config import XARConfig
from glotok_ray.nn.rotary import Rotation, rotate

_NORM_EPSILON = 1e-6
_TIME_FEATURES = 256
_LONGEST_PERIOD = 10000.0
# Up to this many cells, attention is one unmasked call per cell: flash kernels apply, and only
# (cells + 1) / (2 * cells) of the scores are computed. With more, one masked call replaces them.
_MOST_PREFIX_CALLS = 16


class BlockMemory(NamedTuple):
    """Keys and values of one block for the whole grid; `start` is the next cell's first token."""

    keys: Float[Tensor, "b tokens heads width"]
    values: Float[Tensor, "b tokens heads width"]
    start: int

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one cell in place; returns the keys and values of that cell and all before it."""
        end = self.start + keys.shape[1]
        self.keys[:, self.start : end] = keys
        self.values[:, self.start : end] = values
        return self.keys[:, :end], self.values[:, :end]


def block_causal_attention(
    query: Float[Tensor, "b heads n width"],
    key: Float[Tensor, "b heads n width"],
    value: Float[Tensor, "b heads n width"],
    *,
    num_cells: int,
    dropout: float,
) -> Float[Tensor, "b heads n width"]:
    """Scaled dot-product attention in which a token sees every token of the cells up to its own.

    n is cells * tokens. `dropout` acts on the attention weights. Both forms below are exact.
    """
    length = query.shape[2]
    tokens = length // num_cells
    if num_cells <= _MOST_PREFIX_CALLS:
        ends = range(tokens, length + 1, tokens)
        parts = [
            F.scaled_dot_product_attention(
                query[:, :, end - tokens : end],
                key[:, :, :end],
                value[:, :, :end],
                dropout_p=dropout,
            )
            for end in ends
        ]
        return torch.cat(parts, dim=2)
    cell = torch.arange(length, device=query.device) // tokens
    mask = cell[:, None] >= cell[None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class CellAttention(nn.Module):
    """Multi-head attention over cells, rotary positions on queries and keys."""

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_dropout = config.dropout
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.projection = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        tokens: Float[Tensor, "b cells tokens d"],
        rotation: Rotation,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "b cells tokens d"]:
        """Attend over the given cells; with `memory`, from one cell to it and those remembered."""
        num_cells = tokens.shape[1]
        pattern = "b cells tokens (three heads width) -> three b (cells tokens) heads width"
        stacked = rearrange(self.query_key_value(tokens), pattern, three=3, heads=self.num_heads)
        query, key, value = stacked.unbind(0)
        query, key = rotate(query, rotation), rotate(key, rotation)
        if memory is not None:
            key, value = memory.extend(key, value)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        dropout = self.attention_dropout if self.training else 0.0
        if memory is not None:
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        else:
            mixed = block_causal_attention(query, key, value, num_cells=num_cells, dropout=dropout)
        merged = rearrange(
            mixed, "b heads (cells tokens) width -> b cells tokens (heads width)", cells=num_cells
        )
        return self.dropout(self.projection(merged))


class GatedMLP(nn.Module):
    """down(GELU(gate(x)) * value(x)) with dropout after the product and after `down` (GEGLU)."""

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_hidden)
        self.value = nn.Linear(config.width, config.mlp_hidden)
        self.down = nn.Linear(config.mlp_hidden, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        """Position-wise; the shape stays."""
        hidden = self.dropout(F.gelu(self.gate(tokens)) * self.value(tokens))
        return self.dropout(self.down(hidden))


class CellBlock(nn.Module):
    """Pre-norm: x += gate * f(norm(x) * (1 + scale) + shift) for attention, then for the MLP."""

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        # Six parts in the released model's order: gates, scales, shifts; attention first in each.
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.attention = CellAttention(config)
        self.mlp = GatedMLP(config)

    def forward(
        self,
        tokens: Float[Tensor, "b cells tokens d"],
        condition: Float[Tensor, "b cells d"],
        rotation: Rotation,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "b cells tokens d"]:
        """Condition on one activated vector per cell, which broadcasts over the cell's tokens."""
        parts = self.modulation(condition).unsqueeze(2).chunk(6, dim=-1)
        attention_gate, mlp_gate, attention_scale, mlp_scale, attention_shift, mlp_shift = parts
        inner = _norm(tokens) * (1 + attention_scale) + attention_shift
        tokens = tokens + attention_gate * self.attention(inner, rotation, memory)
        inner = _norm(tokens) * (1 + mlp_scale) + mlp_shift
        return tokens + mlp_gate * self.mlp(inner)


def _norm(tokens: Tensor) -> Tensor:
    return F.rms_norm(tokens, tokens.shape[-1:], eps=_NORM_EPSILON)


def learned_norm(width: int) -> nn.RMSNorm:
    """The RMSNorm with a weight that stands between the halves of xAR and at both ends."""
    return nn.RMSNorm(width, eps=_NORM_EPSILON)


class TimeEmbedding(nn.Module):
    """floor(1000 t) as 256 cosines and sines, then a two-layer MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(_TIME_FEATURES, width)
        self.second = nn.Linear(width, width)

    def forward(self, times: Float[Tensor, " *axes"]) -> Float[Tensor, "*axes d"]:
        """Embed times in [0, 1]; 1 is noise."""
        half = _TIME_FEATURES // 2
        steps = torch.arange(half, device=times.device, dtype=torch.float32)
        frequencies = torch.exp(-math.log(_LONGEST_PERIOD) / half * steps)
        angles = torch.floor(1000 * times.float()).unsqueeze(-1) * frequencies
        features = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(features)))
