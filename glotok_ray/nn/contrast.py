"""The head that FQGAN trains beside a codebook: it predicts a frozen network's vector of the whole image.

GloTok does without it (paper appendix B.1, Fig. 5); it is here for the baseline. The loss is in losses/contrastive.py.
Read next: glotok_ray/nn/tokenizer.py
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.tokenizer import ContrastConfig
from glotok_ray.nn.blocks import TransformerBlock, position_table, to_tokens

_MLP_RATIO = 4


class ContrastHead(nn.Module):
    """Transformer over a class token and the widened codes of one branch; used in training alone."""

    def __init__(self, config: ContrastConfig, code_width: int, grid_size: int) -> None:
        super().__init__()
        width = config.width
        self.expand = nn.Sequential(
            nn.Linear(code_width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.class_token = position_table(1, width)
        self.positions = position_table(grid_size**2 + 1, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.num_heads, _MLP_RATIO) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width)

    def forward(self, quantized: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c"]:
        """The predicted vector of each image; the grid must be the trained one."""
        codes = self.expand(to_tokens(quantized).to(self.positions.dtype))
        first = self.class_token.to(codes.dtype).expand(len(codes), 1, -1)
        tokens = self.norm_in(torch.cat([first, codes], dim=1) + self.positions)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm_out(tokens[:, 0])
