"""The residual predictor R and its sum with the codes (paper section 3.3, Eqs. 8, 9, 11 and 12).

R sees tokens alone, so it adds decoder capacity and no information: at best it predicts E[Z - Z-hat | tokens]. L_res is
in losses/residual.py.
Read next: glotok_ray/nn/tokenizer.py
"""

from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.tokenizer import ResidualConfig
from glotok_ray.nn.blocks import (
    TransformerBlock,
    position_table,
    positions_on_grid,
    to_map,
    to_tokens,
)


class ResidualPredictor(nn.Module):
    """One transformer block between two projections; the last starts at zero, so that `refine`
    starts as the identity.
    """

    def __init__(self, config: ResidualConfig, code_width: int, grid_size: int) -> None:
        super().__init__()
        self.expand = nn.Linear(code_width, config.width)
        self.positions = position_table(grid_size**2, config.width)
        self.block = TransformerBlock(config.width, config.num_heads, config.mlp_ratio)
        self.norm = nn.LayerNorm(config.width)
        self.contract = nn.Linear(config.width, code_width)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, quantized: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Eqs. 8 and 9: Z_res = R(Z-hat), for the branch that this predictor belongs to."""
        tokens = to_tokens(quantized).to(self.expand.weight.dtype)
        height, width = quantized.shape[2:]
        positions = positions_on_grid(self.positions, height, width)
        tokens = self.norm(self.block(self.expand(tokens) + positions))
        return to_map(self.contract(tokens).to(quantized.dtype), height, width)


def refine(
    quantized: Float[Tensor, "b d h w"], residual: Float[Tensor, "b d h w"]
) -> Float[Tensor, "b d h w"]:
    """Eqs. 11 and 12: Z-hat + Z_res, which is no longer of unit length."""
    return quantized + residual
