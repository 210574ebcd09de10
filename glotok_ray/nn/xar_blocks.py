"""The transformer block of xAR: attention over entities and a gated MLP, modulated per entity (AdaLN).

A token sees all tokens of its own and of earlier entities; time and class enter by modulation alone.
Source: xAR (Ren et al. 2025), section 3.2 and its released configuration.
Read next: glotok_ray/nn/xar.py
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.generator import XARConfig
from glotok_ray.nn.dropout import Dropout, drop
from glotok_ray.nn.rotary import Rotation, rotate

_NORM_EPSILON = 1e-6
_TIME_FEATURES = 256
_LONGEST_PERIOD = 10000.0
# Up to this many entities, attention is one unmasked call per entity: flash kernels apply, and of equal entities only
# (entities + 1) / (2 * entities) of the scores are computed. With more, one masked call replaces them.
_MOST_PREFIX_CALLS = 16


class EntityLayout(NamedTuple):
    """How the tokens of one pass divide into entities."""

    lengths: tuple[int, ...]
    """Tokens of each entity."""
    rotation: Rotation
    """Of every token."""
    has_context: bool = False
    """The first half of the batch is what the second half sees of earlier entities in place of itself."""

    @property
    def group_size(self) -> int:
        """Tokens that are modulated alike: whole entities where all are equally long, else their common divisor."""
        return math.gcd(*self.lengths)

    def spread(self, values: Float[Tensor, "b entities d"]) -> Float[Tensor, "b groups 1 d"]:
        """One vector per entity to the groups of its tokens; without a copy where all entities are equally long."""
        groups = [length // self.group_size for length in self.lengths]
        if max(groups) > 1:
            # Views side by side: repeats in a tensor would be a copy to the device in every block, for which the host
            # waits.
            parts = zip(values.split(1, dim=1), groups, strict=True)
            values = torch.cat([part.expand(-1, count, -1) for part, count in parts], dim=1)
        return values.unsqueeze(2)


class BlockMemory(NamedTuple):
    """Keys and values of one block for the whole sequence; `start` is the next entity's first token."""

    keys: Float[Tensor, "b n heads width"]
    values: Float[Tensor, "b n heads width"]
    start: int
    modulation: Float[Tensor, "b entities d"] | None = None
    """What the block would compute of its condition, where that is known beforehand."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one entity in place; returns the keys and values of that entity and all before it."""
        end = self.start + keys.shape[1]
        self.keys[:, self.start : end] = keys
        self.values[:, self.start : end] = values
        return self.keys[:, :end], self.values[:, :end]


def entity_attention(
    query: Float[Tensor, "b heads n width"],
    key: Float[Tensor, "b heads n width"],
    value: Float[Tensor, "b heads n width"],
    lengths: tuple[int, ...],
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "b heads n width"]:
    """Scaled dot-product attention in which a token sees every token of the entities up to its own.

    n is the sum of `lengths`. `dropout` acts on the attention weights. All forms below are exact.
    """
    if len(lengths) == 1:
        return _attention(query, key, value, dropout)
    if max(lengths) == 1:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
    if len(lengths) <= _MOST_PREFIX_CALLS:
        parts = []
        # From the last entity on, each prefix is cut from the one after it: its gradient then is no longer than that.
        for part in reversed(query.split(lengths, dim=2)):
            found = _attention(part, key, value, dropout)
            parts.append(found.transpose(1, 2))
            end = key.shape[2] - part.shape[2]
            key, value = key[:, :, :end], value[:, :, :end]
        # Joined in the order of memory that the projection reads.
        return torch.cat(parts[::-1], dim=1).transpose(1, 2)
    entity = _entity_of_token(lengths, query.device)
    mask = entity[:, None] >= entity[None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def attention_in_context(
    query: Float[Tensor, "b heads n width"],
    keys: tuple[Float[Tensor, "b heads n width"], Float[Tensor, "b heads n width"]],
    values: tuple[Float[Tensor, "b heads n width"], Float[Tensor, "b heads n width"]],
    lengths: tuple[int, ...],
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "b heads n width"]:
    """A token sees its own entity, and of the entities before it what the first of `keys` and `values` hold.

    The second ones are the tokens' own. It is what sampling does when the context is finished: teacher forcing.
    """
    if len(lengths) <= _MOST_PREFIX_CALLS:
        parts = [
            _attention(
                query[:, :, start:end],
                torch.cat([keys[0][:, :, :start], keys[1][:, :, start:end]], dim=2),
                torch.cat([values[0][:, :, :start], values[1][:, :, start:end]], dim=2),
                dropout,
            )
            for start, end in _spans(lengths)
        ]
        return torch.cat(parts, dim=2)
    entity = _entity_of_token(lengths, query.device)
    earlier, own = entity[:, None] > entity[None, :], entity[:, None] == entity[None, :]
    return F.scaled_dot_product_attention(
        query,
        torch.cat(keys, dim=2),
        torch.cat(values, dim=2),
        attn_mask=torch.cat([earlier, own], dim=1),
        dropout_p=dropout,
    )


def _attention(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    if dropout == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    # On the CPU no kernel fuses attention with dropout, and torch's general form guards against masks, of which there
    # are none here.
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(2, 3)
    return drop(scores.softmax(dim=-1), dropout) @ value


def _spans(lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(itertools.accumulate(lengths, initial=0)))


def _entity_of_token(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    if len(set(lengths)) == 1:
        return torch.arange(len(lengths), device=device).repeat_interleave(lengths[0])
    # Filled on the device, where a tensor made of a list is a copy that the host waits for.
    parts = [torch.full((length,), index, device=device) for index, length in enumerate(lengths)]
    return torch.cat(parts)


class EntityAttention(nn.Module):
    """Multi-head attention over entities, rotary positions on queries and keys."""

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_dropout = config.dropout
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.projection = nn.Linear(config.width, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        tokens: Float[Tensor, "b groups size d"],
        layout: EntityLayout,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "b groups size d"]:
        """Attend over the given entities; with `memory`, from one entity to it and those remembered."""
        heads = self.query_key_value(tokens).flatten(1, 2).unflatten(-1, (3 * self.num_heads, -1))
        turned = rotate(heads[:, :, : 2 * self.num_heads], layout.rotation)
        query, key = turned.chunk(2, dim=2)
        value = heads[:, :, 2 * self.num_heads :]
        if memory is not None:
            key, value = memory.extend(key, value)
        mixed = self._attend(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), layout
        )
        pattern = "b heads (groups size) width -> b groups size (heads width)"
        return self.dropout(self.projection(rearrange(mixed, pattern, size=tokens.shape[2])))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, layout: EntityLayout) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        if not layout.has_context:
            return entity_attention(query, key, value, layout.lengths, dropout=dropout)
        first_query, second_query = query.chunk(2)
        first_key, second_key = key.chunk(2)
        first_value, second_value = value.chunk(2)
        context = entity_attention(
            first_query, first_key, first_value, layout.lengths, dropout=dropout
        )
        found = attention_in_context(
            second_query,
            (first_key, second_key),
            (first_value, second_value),
            layout.lengths,
            dropout=dropout,
        )
        return torch.cat([context, found])


class GatedMLP(nn.Module):
    """down(GELU(gate(x)) * value(x)) with dropout after the product and after `down` (GEGLU)."""

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_hidden)
        self.value = nn.Linear(config.width, config.mlp_hidden)
        self.down = nn.Linear(config.mlp_hidden, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        """Position-wise; the shape stays."""
        hidden = self.dropout(F.gelu(self.gate(tokens)) * self.value(tokens))
        return self.dropout(self.down(hidden))


class EntityBlock(nn.Module):
    """Pre-norm: x += gate * f(norm(x) * (1 + scale) + shift) for attention, then for the MLP."""

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        # Six parts in the released model's order: gates, scales, shifts; attention first in each.
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.attention = EntityAttention(config)
        self.mlp = GatedMLP(config)

    def forward(
        self,
        tokens: Float[Tensor, "b groups size d"],
        condition: Float[Tensor, "b entities d"],
        layout: EntityLayout,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "b groups size d"]:
        """Condition on one activated vector per entity, which broadcasts over the entity's tokens."""
        modulation = memory.modulation if memory is not None else None
        if modulation is None:
            modulation = self.modulation(condition)
        parts = layout.spread(modulation).chunk(6, dim=-1)
        attention_gate, mlp_gate, attention_scale, mlp_scale, attention_shift, mlp_shift = parts
        inner = _add_product(attention_shift, _norm(tokens), 1 + attention_scale)
        tokens = _add_product(tokens, attention_gate, self.attention(inner, layout, memory))
        inner = _add_product(mlp_shift, _norm(tokens), 1 + mlp_scale)
        return _add_product(tokens, mlp_gate, self.mlp(inner))


def _add_product(base: Tensor, first: Tensor, second: Tensor) -> Tensor:
    # The gradient of addcmul multiplies both factors by its scalar, 1, before it multiplies them by what it got.
    if torch.is_grad_enabled():
        return base + first * second
    return torch.addcmul(base, first, second)


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
