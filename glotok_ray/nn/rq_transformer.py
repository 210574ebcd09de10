"""RQ-Transformer: a causal transformer over positions, and one over the residual codes of each position.

It reads no table of its own but the vectors of the tokenizer's codebook. Source: RQ-VAE and RQ-Transformer (Lee et al.
2022), section 3.2. Read next: glotok_ray/sampling/residual_codes.py
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glotok_ray.config.causal import CausalVariantConfig
from glotok_ray.config.generator import FARConfig, VocabularyConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.nn.biased_blocks import BiasedAttention
from glotok_ray.nn.blocks import empty_keys_and_values
from glotok_ray.nn.far_blocks import FARBlock, PositionMemory
from glotok_ray.nn.rotary import Rotation
from glotok_ray.nn.tokenizer_protocol import Tokenizer


@runtime_checkable
class ResidualTokenizer(Tokenizer, Protocol):
    """A tokenizer of one grid with several codes at every position, all of one codebook, whose vectors the model
    reads.
    """

    @property
    def codebook(self) -> Float[Tensor, "size c"]:
        """The vectors of the codes."""
        ...


class BlockCache:
    """Keys and values of some blocks for a sequence that grows by one element."""

    def __init__(
        self,
        keys: Float[Tensor, "depth b heads n width"],
        values: Float[Tensor, "depth b heads n width"],
    ) -> None:
        self.keys, self.values = keys, values

    def memory(self, block: int, place: int) -> PositionMemory:
        """What one block reads and writes for element number `place`."""
        return PositionMemory(self.keys[block], self.values[block], place)


class RQTransformer(nn.Module):
    """Logits of the code at every depth of every position, given the class and all codes before it."""

    def __init__(self, config: RQConfig) -> None:
        super().__init__()
        self.config = config
        width, blocks = config.width, _block_config(config)
        self.class_embedding = nn.Embedding(config.num_classes, width)
        self.class_position = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(config.num_positions, width))
        self.depth_positions = nn.Parameter(torch.zeros(config.num_residuals, width))
        self.input_projection = nn.Linear(config.code_width, width)
        self.head_projection = nn.Linear(config.code_width, width)
        self.blocks = nn.ModuleList(FARBlock(blocks, BiasedAttention) for _ in range(config.depth))
        self.head_blocks = nn.ModuleList(
            FARBlock(blocks, BiasedAttention) for _ in range(config.head_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, config.num_codes)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self, vectors: Float[Tensor, "b n k c"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b n k size"]:
        """Teacher-forced logits, given the codebook's vectors of all codes of the first n positions.

        Those at depth i of position p depend on all codes of positions before p and on the codes before i at p. Raises
        ValueError for another depth or too many positions.
        """
        length, count = vectors.shape[1:3]
        if count != self.config.num_residuals or not 1 <= length <= self.config.num_positions:
            raise ValueError(
                f"vectors: {count} codes at {length} positions; the model has {self.config.num_residuals} codes at 1 "
                f"to {self.config.num_positions} positions"
            )
        tokens = self._positions_input(vectors[:, :-1]) + self.positions[: length - 1]
        tokens = torch.cat([self._class_input(labels).unsqueeze(1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, _unrotated(tokens))
        summed = self.head_projection(vectors[:, :, :-1].cumsum(dim=2))
        sequences = torch.cat([tokens.unsqueeze(2), summed], dim=2) + self.depth_positions
        sequences = sequences.flatten(0, 1)
        for block in self.head_blocks:
            sequences = block(sequences, _unrotated(sequences))
        return self.output(self.norm(sequences)).unflatten(0, (-1, length))

    def new_cache(self, batch_size: int) -> BlockCache:
        """An empty cache of the positions, on the model's device."""
        return self._cache(batch_size, self.config.depth, self.config.num_positions)

    def new_head_cache(self, batch_size: int) -> BlockCache:
        """An empty cache of the codes of one position."""
        return self._cache(batch_size, self.config.head_depth, self.config.num_residuals)

    @torch.no_grad()
    def first_position(
        self, labels: Int64[Tensor, " b"], cache: BlockCache
    ) -> Float[Tensor, "b d"]:
        """The hidden vector of position 0, without gradients; the position is written to `cache`."""
        return _step(self.blocks, self._class_input(labels), 0, cache)

    @torch.no_grad()
    def next_position(
        self, vectors: Float[Tensor, "b k c"], position: int, cache: BlockCache
    ) -> Float[Tensor, "b d"]:
        """The hidden vector of `position`, 1 or more, given the vectors of the codes of the one before it.

        `cache` must hold all positions before; this one is written to it.
        """
        token = self._positions_input(vectors) + self.positions[position - 1]
        return _step(self.blocks, token, position, cache)

    @torch.no_grad()
    def first_residual(
        self, hidden: Float[Tensor, "b d"], cache: BlockCache
    ) -> Float[Tensor, "b size"]:
        """Logits of a position's first code; `cache` begins with it."""
        return self._residual(hidden, 0, cache)

    @torch.no_grad()
    def next_residual(
        self, summed: Float[Tensor, "b c"], depth: int, cache: BlockCache
    ) -> Float[Tensor, "b size"]:
        """Logits of the code at `depth`, 1 or more, given the sum of the vectors of the position's codes before it."""
        return self._residual(self.head_projection(summed), depth, cache)

    def _residual(self, token: Tensor, depth: int, cache: BlockCache) -> Tensor:
        hidden = _step(self.head_blocks, token + self.depth_positions[depth], depth, cache)
        return self.output(self.norm(hidden))

    def _positions_input(self, vectors: Float[Tensor, "*axes k c"]) -> Float[Tensor, "*axes d"]:
        """Each code's vector is projected before the sum, so that the bias comes once per code."""
        return self.input_projection(vectors).sum(dim=-2)

    def _class_input(self, labels: Tensor) -> Tensor:
        return self.class_embedding(labels) + self.class_position

    def _cache(self, batch_size: int, depth: int, length: int) -> BlockCache:
        heads = self.config.num_heads
        shape = (depth, batch_size, heads, length, self.config.width // heads)
        return BlockCache(*empty_keys_and_values(shape, self.output.weight))


def _step(blocks: nn.ModuleList, token: Tensor, place: int, cache: BlockCache) -> Tensor:
    token = token.unsqueeze(1)
    for index, block in enumerate(blocks):
        token = block(token, _unrotated(token), cache.memory(index, place))
    return token.squeeze(1)


def _unrotated(tokens: Tensor) -> Rotation:
    """Positions are learned: no pairs are turned."""
    return Rotation(*tokens.new_empty(2, tokens.shape[1], 0))


def _block_config(config: RQConfig) -> FARConfig:
    """What blocks of minGPT's kind read of a config."""
    return FARConfig(
        codebooks=(VocabularyConfig(name="codes"),),
        head_depth=0,
        width=config.width,
        num_heads=config.num_heads,
        dropout=config.dropout,
        variant=CausalVariantConfig(block="gpt"),
    )
