"""VAR, which predicts the codes of one scale of an image after the other.

Read next: glotok_ray/nn/var.py
"""

from dataclasses import dataclass
from typing import Literal

from glotok_ray.config.generator import FARConfig, XARConfig
from glotok_ray.config.rules import require, require_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class VARConfig:
    """A transformer over the scales of a residual pyramid of codes (Tian et al. 2024; the defaults are VAR-d16)."""

    scale_sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sides of the grids of codes, in the order of prediction; the first is 1, the last that of the latents."""
    width: int = 1024
    """Model width d; 64 per block in the published models."""
    depth: int = 16
    """Blocks."""
    num_heads: int = 16
    """Attention heads."""
    num_codes: int = 4096
    """Codes of the codebook that all scales share."""
    code_width: int = 32
    """Channels of the map that the codes of all scales add up to."""
    num_classes: int = 1000
    """Classes; one more embedding row is the null label."""
    modulation: Literal["block", "shared"] = "block"
    """Whether each block has its own layer that makes gates, scales and shifts of the class, or all share one and add
    an offset of their own (VAR at 512 pixels).
    """
    stochastic_depth: float = 0.1 * 16 / 24
    """Probability that the last block is left out for an image in training; it rises from 0 over the blocks. The
    published models have 0.1 * depth / 24.
    """
    gate_scale: float = 1e-3
    """Factor on the initial weights of the gates."""

    def __post_init__(self) -> None:
        sizes = ("width", "depth", "num_heads", "num_codes", "code_width", "num_classes")
        require_positive("model", self, sizes)
        sides = self.scale_sides
        require(
            len(sides) > 1 and sides[0] == 1 and list(sides) == sorted(sides),
            "model.scale_sides",
            sides,
            "must hold at least two sides, begin with 1 and never fall",
        )
        require(
            self.width % self.num_heads == 0,
            "model.num_heads",
            self.num_heads,
            f"must divide width = {self.width}",
        )
        depth = self.stochastic_depth
        require(0 <= depth < 1, "model.stochastic_depth", depth, "must be in [0, 1)")
        require(0 < self.gate_scale <= 1, "model.gate_scale", self.gate_scale, "must be in (0, 1]")

    @property
    def scale_lengths(self) -> tuple[int, ...]:
        """Tokens of every scale."""
        return tuple(side**2 for side in self.scale_sides)

    @property
    def num_tokens(self) -> int:
        """Tokens of all scales (680 for the default sides)."""
        return sum(self.scale_lengths)


ModelConfig = XARConfig | FARConfig | VARConfig
"""The model of any generator."""
