"""What codes of VAR's scales add to a map, at a small size: codebook rows, enlarged, half of them smoothed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glotok_ray.config.var import VARConfig

TINY_VAR = VARConfig(
    scale_sides=(1, 2, 3, 5),
    width=32,
    depth=3,
    num_heads=2,
    num_codes=24,
    code_width=6,
    num_classes=4,
)


class SmallPyramid(nn.Module):
    """The contribution of a scale as VAR's tokenizer has it (bicubic enlargement, half of it convolved)."""

    def __init__(self, config: VARConfig = TINY_VAR) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.side = config.scale_sides[-1]
        self.codebook = nn.Parameter(torch.randn(config.num_codes, config.code_width))
        self.smoothing = nn.Conv2d(config.code_width, config.code_width, 3, padding=1)

    @torch.no_grad()
    def forward(self, codes: Tensor, _scale: int) -> Tensor:
        rows = self.codebook[codes].permute(0, 3, 1, 2)
        whole = F.interpolate(rows, (self.side, self.side), mode="bicubic")
        return 0.5 * whole + 0.5 * self.smoothing(whole)
