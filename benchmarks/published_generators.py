"""The published procedures of xAR and FAR, plainly written on this project's weights, to compare speed and output with.

They run what the released code runs, in its order and with its shapes, by the same torch operations as here: fused
query, key and value, `scaled_dot_product_attention`, `rms_norm`. Nothing is slowed down on purpose.
Read next: benchmarks/generator.py
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glotok_ray.config import FlowSamplerConfig
from glotok_ray.nn.biased_blocks import BiasedAttention
from glotok_ray.nn.entities import token_places
from glotok_ray.nn.far import FAR
from glotok_ray.nn.far_blocks import FARBlock
from glotok_ray.nn.rotary import Rotation, grid_rotation
from glotok_ray.nn.xar import XAR
from glotok_ray.nn.xar_blocks import EntityBlock
from glotok_ray.sampling.flow import entity_steps, guidance_weight, integrate
from glotok_ray.sampling.image_random import image_generator
from glotok_ray.sampling.tokens import guide

Draw = Callable[[Float[Tensor, "b size"]], Int64[Tensor, " b"]]
_CACHE_MULTIPLE = 8


def rotate_pairs(
    heads: Float[Tensor, "b heads n width"], rotation: Rotation
) -> Float[Tensor, "b heads n width"]:
    """x cos + turn(x) sin, where turn maps the neighbouring channels (a, b) to (-b, a)."""
    cosine, sine = (part.repeat_interleave(2, dim=-1) for part in rotation)
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return heads * cosine + turned * sine


@dataclass
class GrowingMemory:
    """Keys and values of one block of xAR for the finished cells."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class PublishedXAR(nn.Module):
    """xAR of cells as one sequence of tokens under a float mask, with a modulation vector for every token.

    A block's modulation is computed once per cell and repeated over the cell's tokens: the released code materialises
    (batch, tokens, 6, width) in every block. A code that fed the repeated condition to that layer would be slower.
    """

    def __init__(self, model: XAR) -> None:
        super().__init__()
        self.model = model
        self.cells = model.config.num_entities
        self.size = model.config.entity_lengths[0]
        places = token_places(model.config, torch.device("cpu"))
        self.rotation = grid_rotation(places, model.config.width // model.config.num_heads)
        cell = torch.arange(model.config.num_tokens) // self.size
        seen = cell[:, None] >= cell[None, :]
        self.mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)

    def forward(
        self,
        noisy: Float[Tensor, "b n c"],
        times: Float[Tensor, "b cells"],
        labels: Int64[Tensor, " b"],
    ) -> Float[Tensor, "b n c"]:
        """Velocity of every token of a training batch."""
        return self.velocity(noisy, times, labels, first_cell=0, mask=self.mask.to(noisy.device))

    def velocity(
        self,
        noisy: Float[Tensor, "b n c"],
        times: Float[Tensor, "b cells"],
        labels: Int64[Tensor, " b"],
        *,
        first_cell: int,
        mask: Float[Tensor, "n all"] | None = None,
        memories: list[GrowingMemory] | None = None,
        remember: int = 0,
    ) -> Float[Tensor, "b n c"]:
        """Velocity of some consecutive cells, given those in `memories`, which then hold `remember` tokens more."""
        model = self.model
        start = first_cell * self.size
        chosen = slice(start, start + noisy.shape[1])
        rotation = Rotation(*(part[chosen].to(noisy.device) for part in self.rotation))
        condition = F.silu(model.class_embedding(labels).unsqueeze(1) + model.time_embedding(times))
        tokens = model.first_norm(model.input_projection(noisy) + model.first_position[chosen])
        for index, block in enumerate(model.blocks):
            if index == model.config.depth // 2:
                tokens = model.middle_projection(model.middle_norm(tokens))
                tokens = tokens + model.second_position[chosen]
            memory = memories[index] if memories else None
            tokens = self._block(block, tokens, condition, rotation, mask, (memory, remember))
        return model.output_projection(model.final_norm(tokens))

    def _block(
        self,
        block: nn.Module,
        tokens: Tensor,
        condition: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        memory: tuple[GrowingMemory | None, int],
    ) -> Tensor:
        assert isinstance(block, EntityBlock)
        parts = block.modulation(condition).repeat_interleave(self.size, dim=1)
        parts = parts.unflatten(-1, (6, -1)).unbind(2)
        attention_gate, mlp_gate, attention_scale, mlp_scale, attention_shift, mlp_shift = parts
        inner = _norm(tokens) * (1 + attention_scale) + attention_shift
        tokens = tokens + attention_gate * self._attend(block, inner, rotation, mask, memory)
        inner = _norm(tokens) * (1 + mlp_scale) + mlp_shift
        return tokens + mlp_gate * self._mlp(block, inner)

    def _attend(
        self,
        block: EntityBlock,
        tokens: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        memory: tuple[GrowingMemory | None, int],
    ) -> Tensor:
        attention = block.attention
        assert not isinstance(attention, BiasedAttention)
        heads = attention.query_key_value(tokens).unflatten(-1, (3, attention.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = rotate_pairs(query, rotation), rotate_pairs(key, rotation)
        remembered, remember = memory
        if remembered is not None:
            own = key, value
            key = torch.cat([*remembered.keys, key], dim=2)
            value = torch.cat([*remembered.values, value], dim=2)
            if remember:
                remembered.keys = [*remembered.keys, own[0][:, :, :remember]]
                remembered.values = [*remembered.values, own[1][:, :, :remember]]
        dropout = attention.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        found = attention.projection(mixed.transpose(1, 2).flatten(2))
        return F.dropout(found, dropout, self.training)

    def _mlp(self, block: EntityBlock, tokens: Tensor) -> Tensor:
        mlp, dropout = block.mlp, self.model.config.dropout
        hidden = F.gelu(mlp.gate(tokens)) * mlp.value(tokens)
        found = mlp.down(F.dropout(hidden, dropout, self.training))
        return F.dropout(found, dropout, self.training)


def _norm(tokens: Tensor) -> Tensor:
    return F.rms_norm(tokens, tokens.shape[-1:], eps=1e-6)


@torch.no_grad()
def published_latents(
    model: XAR, labels: Int64[Tensor, " b"], config: FlowSamplerConfig, *, seed: int
) -> Float[Tensor, "b c h w"]:
    """Latents of one image per label, drawn from the same noise as `sample_latents` with ids 0, 1, ...

    Both halves of the guidance run in every cell. The first step of a cell takes the finished cell before it along.
    """
    published, count = PublishedXAR(model).eval(), model.config.num_entities
    null = torch.full_like(labels, model.null_label)
    both = torch.cat([labels, null])
    generators = [image_generator(seed, index) for index in range(len(labels))]
    memories = [GrowingMemory() for _ in model.blocks]
    finished: list[Tensor] = []
    for cell in range(count):
        steps = entity_steps(cell, count, config)
        size = (steps, published.size, model.config.channels)
        noise = torch.stack([torch.randn(size, generator=each) for each in generators], dim=1)
        velocity = _cell_velocity(
            published, memories, both, finished, guidance_weight(cell, count, config)
        )
        finished.append(integrate(velocity, noise.to(labels.device).double(), steps, config))
    return model.denormalize(model.from_entities(torch.cat(finished, dim=1))).float()


def _cell_velocity(
    published: PublishedXAR,
    memories: list[GrowingMemory],
    labels: Tensor,
    finished: list[Tensor],
    weight: float,
) -> Callable[[Tensor, float], Tensor]:
    cell, size = len(finished), published.size
    calls = itertools.count()

    def velocity(state: Tensor, time: float) -> Tensor:
        is_first = next(calls) == 0 and cell > 0
        tokens = torch.cat([finished[-1], state], dim=1) if is_first else state
        times = torch.full((len(labels), 1), time, device=state.device)
        mask = None
        if is_first:
            times = torch.cat([torch.zeros_like(times), times], dim=1)
            mask = published.mask[(cell - 1) * size : (cell + 1) * size, : (cell + 1) * size]
            mask = mask.to(state.device)
        found = published.velocity(
            torch.cat([tokens, tokens]).float(),
            times,
            labels,
            first_cell=cell - 1 if is_first else cell,
            mask=mask,
            memories=memories,
            remember=size if is_first else 0,
        )
        conditional, unconditional = found[:, -size:].to(state.dtype).chunk(2)
        return unconditional + weight * (conditional - unconditional)

    return velocity


class StaticMemory:
    """Keys and values of one block for the longest sequence, zero where nothing is written yet."""

    def __init__(self, batch: int, heads: int, length: int, width: int) -> None:
        length += -length % _CACHE_MULTIPLE
        self.keys = torch.zeros(batch, heads, length, width)
        self.values = torch.zeros(batch, heads, length, width)

    def extend(self, place: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write one element; returns the whole, that which is not written yet included."""
        self.keys[:, :, place : place + 1] = key
        self.values[:, :, place : place + 1] = value
        return self.keys, self.values


class PublishedFAR:
    """FAR's sampling step: a cache of the full length under a mask, and a fresh one for the head at every position."""

    def __init__(self, model: FAR, labels: Int64[Tensor, " b"], scale: float) -> None:
        self.model, self.scale, self.count = model, scale, len(labels)
        null = torch.full_like(labels, model.null_label)
        self.labels = torch.cat([labels, null])
        tables = model.new_cache(1)
        self.rotation, self.head_rotation = tables.rotation, tables.head_rotation
        self.memories = self._new_memories(model.blocks)
        length = self.memories[0].keys.shape[2]
        self.mask = torch.ones(length, length, dtype=torch.bool).tril()

    def _new_memories(self, blocks: nn.ModuleList) -> list[StaticMemory]:
        config, rows = self.model.config, len(self.labels)
        width = config.width // config.num_heads
        return [
            StaticMemory(rows, config.num_heads, config.num_positions + 1, width) for _ in blocks
        ]

    @torch.no_grad()
    def draw_position(
        self, previous: Int64[Tensor, "b k"] | None, position: int, draw: Draw
    ) -> Int64[Tensor, "b k"]:
        """Codes of all codebooks at one position, given those of the position before it, none at the first."""
        token = self._token(previous)
        rotation = self.rotation.part(slice(position, position + 1))
        for block, memory in zip(self.model.blocks, self.memories, strict=True):
            token = self._block(block, token, rotation, (memory, position))
        memories, drawn = self._new_memories(self.model.head_blocks), []
        for codebook, output in enumerate(self.model.outputs):
            if codebook > 0:
                token = self.model.embeddings[codebook - 1](drawn[-1].repeat(2)).unsqueeze(1)
            rotation = self.head_rotation.part(slice(codebook, codebook + 1))
            for block, memory in zip(self.model.head_blocks, memories, strict=True):
                token = self._block(block, token, rotation, (memory, codebook))
            logits = output(self.model.norm(token))[:, -1].float()
            conditional, unconditional = logits.chunk(2)
            drawn.append(draw(guide(conditional, unconditional, self.scale)))
        return torch.stack(drawn, dim=1)

    def _token(self, previous: Tensor | None) -> Tensor:
        model = self.model
        if previous is None:
            return model.class_embedding(self.labels).unsqueeze(1)
        both = previous.repeat(2, 1)
        embedded = [table(both[:, index]) for index, table in enumerate(model.embeddings)]
        return model.aggregation(torch.cat(embedded, dim=-1)).unsqueeze(1)

    def _block(
        self, block: nn.Module, token: Tensor, rotation: Rotation, place: tuple[StaticMemory, int]
    ) -> Tensor:
        memory, index = place
        assert isinstance(block, FARBlock)
        attention = block.attention
        assert not isinstance(attention, BiasedAttention)
        heads = attention.query_key_value(block.attention_norm(token))
        heads = heads.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        query, key = rotate_pairs(query, rotation), rotate_pairs(key, rotation)
        keys, values = self._remembered(memory, index, key, value)
        mixed = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=self.mask[index : index + 1]
        )
        token = token + attention.projection(mixed.transpose(1, 2).flatten(2))
        return token + block.mlp(block.mlp_norm(token))

    def _remembered(
        self, memory: StaticMemory, index: int, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is attended to, the new element written."""
        return memory.extend(index, key, value)


def published_logits(
    model: FAR, codes: Int64[Tensor, "b k n"], labels: Int64[Tensor, " b"]
) -> list[Float[Tensor, "b n size"]]:
    """FAR's teacher-forced logits: the head runs as a causal transformer over batch * positions short sequences."""
    rate, training = model.config.dropout, model.training
    tables = model.new_cache(1)
    embedded = [table(codes[:, index]) for index, table in enumerate(model.embeddings)]
    previous = model.aggregation(torch.cat(embedded, dim=-1)[:, :-1])
    tokens = torch.cat([model.class_embedding(labels).unsqueeze(1), previous], dim=1)
    tokens = F.dropout(tokens, model.config.token_dropout, training)
    rotation = tables.rotation.part(slice(tokens.shape[1]))
    for block in model.blocks:
        tokens = _teacher_forced(block, tokens, rotation, rate)
    sequences = torch.stack([tokens, *embedded[:-1]], dim=2).flatten(0, 1)
    for block in model.head_blocks:
        sequences = _teacher_forced(block, sequences, tables.head_rotation, rate)
    normed = model.norm(sequences).unflatten(0, tokens.shape[:2])
    return [output(normed[:, :, index]) for index, output in enumerate(model.outputs)]


def _teacher_forced(block: nn.Module, tokens: Tensor, rotation: Rotation, rate: float) -> Tensor:
    assert isinstance(block, FARBlock)
    attention = block.attention
    assert not isinstance(attention, BiasedAttention)
    heads = attention.query_key_value(block.attention_norm(tokens))
    heads = heads.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = heads.unbind(0)
    query, key = rotate_pairs(query, rotation), rotate_pairs(key, rotation)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    found = attention.projection(mixed.transpose(1, 2).flatten(2))
    tokens = tokens + F.dropout(found, rate, block.training)
    return tokens + F.dropout(block.mlp(block.mlp_norm(tokens)), rate, block.training)


def multinomial(logits: Float[Tensor, "b size"]) -> Int64[Tensor, " b"]:
    """The published draw, from torch's own random numbers."""
    return torch.multinomial(logits.softmax(dim=-1), num_samples=1).squeeze(-1)
