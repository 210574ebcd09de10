"""VAR and ImageFolder's generator, which predict the codes of one scale of an image after the other.

Read next: glotok_ray/nn/var.py
"""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.generator import FARConfig, XARConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.rules import ADDED_LATER, require, require_positive, require_probability


@dataclass(frozen=True, kw_only=True, slots=True)
class VARConfig:
    """A transformer over the scales of a residual pyramid of codes (Tian et al. 2024; the defaults are VAR-d16).

    With two branches it is ImageFolder's generator (Li et al. 2024).
    """

    scale_sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sides of the grids of codes, in the order of prediction; the first is 1, the last that of the latents."""
    width: int = 1024
    """Model width d; 64 per block in the published models."""
    depth: int = 16
    """Blocks."""
    num_heads: int = 16
    """Attention heads."""
    num_codes: int = 4096
    """Codes of the codebook that all scales share; of each branch's where there are several."""
    num_branches: int = field(default=1, metadata={ADDED_LATER: 1})
    """Codes at every position, each of a codebook of its own; they are predicted by softmaxes that do not see each
    other. ImageFolder has two, details before semantics.
    """
    code_width: int = 32
    """Channels of the map that the codes of all scales add up to, of all branches together."""
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
    input_masking: float = field(default=0.0, metadata={ADDED_LATER: 0.0})
    """In training, the largest share of the inputs behind the first scale that one learned vector replaces; it falls
    over the run to 0, and each batch's share is uniform below it. 0, as ImageFolder was trained, has no such vector.
    """

    def __post_init__(self) -> None:
        sizes = ("width", "depth", "num_heads", "num_codes", "num_branches")
        require_positive("model", self, (*sizes, "code_width", "num_classes"))
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
        require(
            self.code_width % self.num_branches == 0,
            "model.code_width",
            self.code_width,
            f"must be a multiple of num_branches = {self.num_branches}",
        )
        require_probability("model.input_masking", self.input_masking)

    @property
    def scale_lengths(self) -> tuple[int, ...]:
        """Tokens of every scale."""
        return tuple(side**2 for side in self.scale_sides)

    @property
    def num_tokens(self) -> int:
        """Tokens of all scales (680 for the default sides); each stands for one code of every branch."""
        return sum(self.scale_lengths)

    @property
    def num_indices(self) -> int:
        """Codes of an image (680 by default; 572 of ImageFolder's 286 tokens)."""
        return self.num_branches * self.num_tokens


ModelConfig = XARConfig | FARConfig | VARConfig | RQConfig
"""The model of any generator."""
