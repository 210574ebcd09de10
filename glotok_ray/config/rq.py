"""RQ-Transformer, which predicts the residual codes of a position one after the other.

Read next: glotok_ray/nn/rq_transformer.py
"""

from dataclasses import dataclass

from glotok_ray.config.rules import require, require_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class RQConfig:
    """A transformer over positions and one over the codes of each (Lee et al. 2022); by default that of 480M."""

    grid_size: int = 8
    """Positions along one side."""
    num_residuals: int = 4
    """Codes of a position, each of what those before it left over."""
    num_codes: int = 16384
    """Codes of the codebook that all depths share."""
    code_width: int = 256
    """Numbers of a code's vector, which is what the model reads."""
    width: int = 1536
    """Model width d."""
    depth: int = 12
    """Blocks over positions."""
    head_depth: int = 4
    """Blocks over the codes of one position."""
    num_heads: int = 24
    """Attention heads of both."""
    num_classes: int = 1000
    """Classes; there is no null label."""
    dropout: float = 0.1
    """Dropout on what attention and MLP add."""

    def __post_init__(self) -> None:
        sizes = ("grid_size", "num_residuals", "num_codes", "code_width", "width", "depth")
        require_positive("model", self, (*sizes, "head_depth", "num_heads", "num_classes"))
        require(
            self.width % self.num_heads == 0,
            "model.num_heads",
            self.num_heads,
            f"must divide width = {self.width}",
        )
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")

    @property
    def num_positions(self) -> int:
        """Positions of the grid."""
        return self.grid_size**2

    @property
    def num_indices(self) -> int:
        """Codes of an image (256 by default)."""
        return self.num_positions * self.num_residuals
