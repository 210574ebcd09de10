"""What the class does to every norm and gate of a causal transformer (AdaLN), computed once per image.

Source: IBQ (Shi et al. 2024), whose transformer is LlamaGen's block with VAR's modulation.
Read next: glotok_ray/nn/far.py
"""

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.generator import FARConfig


class Modulations(NamedTuple):
    """One tensor per block and one for the last norm; None throughout where the class modulates nothing."""

    blocks: tuple[Float[Tensor, "b 1 six_d"] | None, ...]
    head_blocks: tuple[Float[Tensor, "b 1 six_d"] | None, ...]
    final: Float[Tensor, "b 1 two_d"] | None

    def rows(self, count: int) -> "Modulations":
        """Those of the first `count` images."""
        blocks, head_blocks = (
            tuple(each if each is None else each[:count] for each in part) for part in self[:2]
        )
        return Modulations(blocks, head_blocks, None if self.final is None else self.final[:count])

    def per_position(self, length: int) -> "Modulations":
        """Each image's repeated for `length` short sequences, one per position; the trunk's stay."""
        head_blocks = tuple(
            each if each is None else each.repeat_interleave(length, dim=0)
            for each in self.head_blocks
        )
        final = self.final
        return Modulations(
            self.blocks,
            head_blocks,
            final if final is None else final.repeat_interleave(length, dim=0),
        )


def unmodulated(config: FARConfig) -> Modulations:
    """Of a model whose class enters as the first token alone."""
    return Modulations((None,) * config.depth, (None,) * config.head_depth, None)


class ClassModulation(nn.Module):
    """SiLU and one Linear per block: gates, scales and shifts of attention and MLP; scale and shift at the end."""

    def __init__(self, config: FARConfig) -> None:
        super().__init__()
        width = config.width
        self.blocks = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(config.depth))
        self.head_blocks = nn.ModuleList(
            nn.Linear(width, 6 * width) for _ in range(config.head_depth)
        )
        self.final = nn.Linear(width, 2 * width)

    def rescale(self, gate_scale: float) -> None:
        """After the initialisation that all Linear layers have: gates nearly closed, scales and shifts halved."""
        for block in (*self.blocks, *self.head_blocks):
            weight = block.get_parameter("weight").detach()
            gates = weight.shape[0] // 3
            weight[:gates].mul_(gate_scale)
            weight[gates:].mul_(0.5)
        self.final.weight.detach().mul_(0.5)

    def forward(self, condition: Float[Tensor, "b d"]) -> Modulations:
        """All modulations of a batch, from the embeddings of its classes."""
        active = F.silu(condition).unsqueeze(1)
        return Modulations(
            tuple(block(active) for block in self.blocks),
            tuple(block(active) for block in self.head_blocks),
            self.final(active),
        )


def modulated_norm(
    normed: Float[Tensor, "b n d"], modulation: Float[Tensor, "b 1 two_d"] | None
) -> Float[Tensor, "b n d"]:
    """normed * (1 + scale) + shift, or what was given."""
    if modulation is None:
        return normed
    scale, shift = modulation.chunk(2, dim=-1)
    return normed * (1 + scale) + shift
