"""Attention and MLP with biases, as in minGPT: the parts of a block of taming-transformers and of VQGAN-LC.

Source: taming-transformers (Esser et al. 2021), section 3.2; its positions are learned, so nothing is rotated here.
Read next: glotok_ray/nn/far_blocks.py
"""

from typing import Protocol

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.generator import FARConfig


class Memory(Protocol):
    """Keys and values of earlier positions."""

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write one position, (b, heads, 1, width); returns it and all before it."""
        ...


class BiasedAttention(nn.Module):
    """Causal multi-head attention over positions, with a biased Linear each for queries, keys and values."""

    def __init__(self, config: FARConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.projection = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "b n d"], _rotation: object, memory: Memory | None = None
    ) -> Float[Tensor, "b n d"]:
        """Attend over the given positions; with `memory`, from one position to it and those before."""
        query, key, value = (
            product(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for product in (self.query, self.key, self.value)
        )
        if memory is None:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            # All remembered positions are earlier ones, so no mask is needed.
            mixed = F.scaled_dot_product_attention(query, *memory.extend(key, value))
        return self.projection(mixed.transpose(1, 2).flatten(2))


class BiasedMLP(nn.Module):
    """second(GELU(first(x))), with biases and the exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        """Position-wise; the shape stays."""
        return self.second(F.gelu(self.first(tokens)))
