"""The adapter of one branch: it splits semantic or visual features off the shared map (paper section 3.2).

The paper does not say what is in it; this is FQGAN's (Bai et al. 2024): positions, LayerNorm, transformer blocks,
LayerNorm.
Read next: glotok_ray/nn/quantizer.py
"""

from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.tokenizer import AdapterConfig
from glotok_ray.nn.blocks import (
    TransformerBlock,
    position_table,
    positions_on_grid,
    to_map,
    to_tokens,
)


class Adapter(nn.Module):
    """Transformer over the positions of a map; no skip around the whole."""

    def __init__(self, config: AdapterConfig, width: int, grid_size: int) -> None:
        super().__init__()
        self.positions = position_table(grid_size**2, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape; on another grid than the trained one the positions are resampled."""
        height, width = features.shape[2:]
        positions = positions_on_grid(self.positions, height, width)
        tokens = self.norm_in(to_tokens(features) + positions)
        for block in self.blocks:
            tokens = block(tokens)
        return to_map(self.norm_out(tokens), height, width)
