"""FAR: a causal transformer over positions whose head predicts the codebooks of a position one after another.

With one codebook and no head it is LlamaGen's GPT, and with another variant that of IBQ, taming-transformers, VQGAN-LC.
Source: FQGAN (Bai et al. 2024), section 3.3; LlamaGen (Sun et al. 2024), section 2.2; IBQ (Shi et al. 2024).
Read next: glotok_ray/losses/token_prediction.py (training), glotok_ray/sampling/tokens.py (sampling)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glotok_ray.config.generator import FARConfig
from glotok_ray.nn.biased_blocks import BiasedAttention
from glotok_ray.nn.blocks import empty_keys_and_values
from glotok_ray.nn.class_modulation import (
    ClassModulation,
    Modulations,
    modulated_norm,
    unmodulated,
)
from glotok_ray.nn.dropout import Dropout
from glotok_ray.nn.far_blocks import (
    CodebookAttention,
    CodebookMemory,
    FARBlock,
    PositionAttention,
    PositionMemory,
    norm_of,
)
from glotok_ray.nn.rotary import Rotation, grid_rotation


class HeadMemory:
    """What the head remembers of the codebooks of the position at hand."""

    def __init__(self, rotation: Rotation, modulations: Modulations) -> None:
        self.blocks = [CodebookMemory() for _ in modulations.head_blocks]
        self.rotation = rotation
        self.modulations = modulations


class CodeCache:
    """Keys and values of every block for a batch whose positions are sampled one after another."""

    def __init__(
        self,
        keys: Float[Tensor, "depth b heads positions width"],
        values: Float[Tensor, "depth b heads positions width"],
        rotation: Rotation,
        head_rotation: Rotation,
        modulations: Modulations,
    ) -> None:
        """`modulations` are the class's, which the first position brings."""
        self.keys = keys
        self.values = values
        self.rotation = rotation
        self.head_rotation = head_rotation
        self.modulations = modulations

    def rows(self, count: int) -> "CodeCache":
        """A view of the first `count` images; writing to it writes here."""
        keys, values = self.keys[:, :count], self.values[:, :count]
        modulations = self.modulations.rows(count)
        return CodeCache(keys, values, self.rotation, self.head_rotation, modulations)

    def memory(self, block: int, position: int) -> PositionMemory:
        """What one block reads and writes at one position."""
        return PositionMemory(self.keys[block], self.values[block], position)


class FAR(nn.Module):
    """Logits of every codebook's code at every position, given the class and all codes before it.

    The sequence over positions is the class, then the codes: element p sees the codes of positions before p. Its
    output leads the head's sequence at position p, in which the code of each codebook follows.
    """

    def __init__(self, config: FARConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.width, len(config.codebooks)
        if config.variant.class_input == "own_table":
            self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.embeddings = nn.ModuleList(nn.Embedding(rows, width) for rows in config.num_entries)
        self.aggregation = nn.Linear(count * width, width) if count > 1 else nn.Identity()
        self.token_dropout = Dropout(config.token_dropout)
        is_gpt = config.variant.block == "gpt"
        attention = BiasedAttention if is_gpt else PositionAttention
        self.blocks = nn.ModuleList(FARBlock(config, attention) for _ in range(config.depth))
        self.head_blocks = nn.ModuleList(
            FARBlock(config, CodebookAttention) for _ in range(config.head_depth)
        )
        self.norm = norm_of(config)
        self.outputs = nn.ModuleList(
            nn.Linear(width, rows, bias=False) for rows in config.num_entries
        )
        if is_gpt:
            rows = config.num_positions + config.variant.unread_positions
            self.positions = nn.Parameter(torch.zeros(rows, width))
        if config.variant.block == "ibq":
            self.modulation = ClassModulation(config)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        # minGPT draws its output like all others.
        for output in self.outputs.children() if self.config.variant.block != "gpt" else ():
            nn.init.zeros_(output.get_parameter("weight"))
        if self.config.variant.block == "ibq":
            self.modulation.rescale(self.config.variant.gate_scale)

    @property
    def null_label(self) -> int:
        """The label that stands for no class, the last row of the classes' own table; others have none."""
        return self.config.num_classes

    def forward(
        self, codes: Int64[Tensor, "b k n"], labels: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b n size"], ...]:
        """Teacher-forced logits, one tensor per codebook, in the model's dtype.

        `codes` are in the order of the config's codebooks and may hold fewer than all positions: the first ones. Logits
        of a model whose classes lie behind its codes hold the classes' too.
        Logits of codebook i at position p depend on all codes of positions before p and on codebooks before i at p.
        Raises ValueError for another number of codebooks or too many positions.
        """
        count, length = codes.shape[1:]
        if count != len(self.config.codebooks) or not 1 <= length <= self.config.num_positions:
            raise ValueError(
                f"codes: {count} codebooks at {length} positions; the model has {len(self.config.codebooks)} "
                f"codebooks ({', '.join(self.config.names)}) and 1 to {self.config.num_positions} positions"
            )
        embedded = [table(codes[:, index]) for index, table in enumerate(self.embeddings)]
        previous = self._aggregate([each[:, :-1] for each in embedded])
        condition = self._class_vectors(labels)
        tokens = torch.cat([condition.unsqueeze(1), previous], dim=1)
        tokens = self.token_dropout(self._placed(tokens, 0))
        modulations = self._modulations(condition)
        rotation = self._rotation(length, tokens.device)
        for block, modulation in zip(self.blocks, modulations.blocks, strict=True):
            tokens = block(tokens, rotation, None, modulation)
        # One short sequence per position: the trunk's output, then all codes but the last codebook's.
        sequences = torch.stack([tokens, *embedded[:-1]], dim=2).flatten(0, 1)
        rotation = self._rotation(count, tokens.device)
        modulations = modulations.per_position(length)
        for block, modulation in zip(self.head_blocks, modulations.head_blocks, strict=True):
            sequences = block(sequences, rotation, None, modulation)
        normed = modulated_norm(self.norm(sequences), modulations.final)
        normed = normed.unflatten(0, tokens.shape[:2]).unbind(2)
        return tuple(output(each) for output, each in zip(self.outputs, normed, strict=True))

    def new_cache(self, batch_size: int) -> CodeCache:
        """An empty cache for sampling, on the model's device, in its attention's dtype."""
        config, weight = self.config, self.outputs[0].get_parameter("weight")
        head_width = config.width // config.num_heads
        shape = (config.depth, batch_size, config.num_heads, config.num_positions, head_width)
        keys, values = empty_keys_and_values(shape, weight)
        return CodeCache(
            keys,
            values,
            rotation=self._rotation(config.num_positions, weight.device),
            head_rotation=self._rotation(len(config.codebooks), weight.device),
            modulations=unmodulated(config),
        )

    @torch.no_grad()
    def first_position(self, labels: Int64[Tensor, " b"], cache: CodeCache) -> Float[Tensor, "b d"]:
        """The trunk's output at position 0, without gradients; the position is written to `cache`, and what the class
        modulates.
        """
        condition = self._class_vectors(labels)
        cache.modulations = self._modulations(condition)
        return self._position(condition, 0, cache)

    @torch.no_grad()
    def next_position(
        self, codes: Int64[Tensor, "b k"], position: int, cache: CodeCache
    ) -> Float[Tensor, "b d"]:
        """The trunk's output at `position`, given the codes of the position before it, without gradients.

        `cache` must hold all positions before; this one is written to it.
        """
        embedded = [table(codes[:, index]) for index, table in enumerate(self.embeddings)]
        return self._position(self._aggregate(embedded), position, cache)

    @torch.no_grad()
    def first_codebook(
        self, hidden: Float[Tensor, "b d"], cache: CodeCache
    ) -> tuple[Float[Tensor, "b size"], HeadMemory]:
        """Logits of the first codebook's codes, without classes, given the trunk's output of the cache's first images,
        and the memory that `next_codebook` needs.
        """
        memory = HeadMemory(cache.head_rotation, cache.modulations.rows(len(hidden)))
        return self._codebook(hidden, 0, memory), memory

    @torch.no_grad()
    def next_codebook(
        self, codes: Int64[Tensor, " b"], codebook: int, memory: HeadMemory
    ) -> Float[Tensor, "b size"]:
        """Logits of codebook number `codebook`, 1 or more, given the code of the codebook before it.

        `memory` must hold all codebooks before; this one is written to it.
        """
        return self._codebook(self.embeddings[codebook - 1](codes), codebook, memory)

    def _position(self, token: Tensor, position: int, cache: CodeCache) -> Tensor:
        token = self._placed(token.unsqueeze(1), position)
        rotation = cache.rotation.part(slice(position, position + 1))
        parts = zip(self.blocks, cache.modulations.blocks, strict=True)
        for index, (block, modulation) in enumerate(parts):
            token = block(token, rotation, cache.memory(index, position), modulation)
        return token.squeeze(1)

    def _codebook(self, token: Tensor, codebook: int, memory: HeadMemory) -> Tensor:
        token = token.unsqueeze(1)
        modulations = memory.modulations
        parts = zip(self.head_blocks, memory.blocks, modulations.head_blocks, strict=True)
        for block, remembered, modulation in parts:
            token = block(token, memory.rotation, remembered, modulation)
        normed = modulated_norm(self.norm(token), modulations.final).squeeze(1)
        return self.outputs[codebook](normed)[..., : self.config.codebooks[codebook].size]

    def _class_vectors(self, labels: Tensor) -> Tensor:
        if self.config.variant.class_input == "own_table":
            return self.class_embedding(labels)
        behind = self.config.variant.class_input == "after_codes"
        return self.embeddings[0](labels + self.config.codebooks[0].size * behind)

    def _placed(self, tokens: Tensor, position: int) -> Tensor:
        """With the learned positions of consecutive tokens from `position` on, where there are such."""
        if self.config.variant.block != "gpt":
            return tokens
        return tokens + self.positions[position : position + tokens.shape[1]]

    def _modulations(self, condition: Tensor) -> Modulations:
        if self.config.variant.block != "ibq":
            return unmodulated(self.config)
        return self.modulation(condition)

    def _aggregate(self, embedded: Sequence[Tensor]) -> Tensor:
        # Autocast must not round the residual stream, which is of the embeddings' dtype.
        return self.aggregation(torch.cat(tuple(embedded), dim=-1)).to(embedded[0].dtype)

    def _rotation(self, length: int, device: torch.device) -> Rotation:
        """Zeros for what leads a sequence, so that its query and key are zero; then places of the grid in raster
        order. Positions and the head's codebooks share the table. Where positions are learned, no pairs are turned.
        """
        if self.config.variant.block == "gpt":
            return Rotation(*torch.empty(2, length, 0, device=device))
        steps = torch.arange(length - 1, device=device)
        size = self.config.grid_size
        places = torch.stack([steps // size, steps % size], dim=-1)
        grid = grid_rotation(places, self.config.width // self.config.num_heads)
        zeros = grid.cosine.new_zeros(1, grid.cosine.shape[1])
        return Rotation(torch.cat([zeros, grid.cosine]), torch.cat([zeros, grid.sine]))
