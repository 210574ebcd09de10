"""What codes of VAR's scales add to a map, at a small size: codebook rows, enlarged, half of them smoothed."""

import dataclasses

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
TINY_BRANCHES = dataclasses.replace(
    TINY_VAR, scale_sides=(1, 1, 2, 3, 3, 5), num_branches=2, code_width=6, input_masking=0.4
)
"""As ImageFolder's generator: two codes at a position, some sides twice; and masked inputs."""


class SmallPyramid(nn.Module):
    """The contribution of a scale as VAR's tokenizer has it (bicubic enlargement, half of it convolved), or as that of
    ImageFolder, each branch by itself.
    """

    def __init__(self, config: VARConfig = TINY_VAR) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.side = config.scale_sides[-1]
        width = config.code_width // config.num_branches
        self.codebooks = nn.ParameterList(
            torch.randn(config.num_codes, width) for _ in range(config.num_branches)
        )
        self.smoothings = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(config.num_branches)
        )

    @torch.no_grad()
    def forward(self, codes: Tensor, _scale: int) -> Tensor:
        branches = codes.unbind(1) if codes.ndim == 4 else (codes,)
        found = []
        for book, smoothing, each in zip(self.codebooks, self.smoothings, branches, strict=True):
            rows = book[each].permute(0, 3, 1, 2)
            whole = F.interpolate(rows, (self.side, self.side), mode="bicubic")
            found.append(0.5 * whole + 0.5 * smoothing(whole))
        return torch.cat(found, dim=1)
