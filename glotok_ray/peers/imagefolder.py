"""ImageFolder (Li et al. 2024): two DINOv2 transformers, and two rows of multi-scale codes that share one sequence.

Branch 0 holds details, branch 1 semantics. There is no convolution on the way to pixels. The released files may be used
for non-commercial research alone. Read next: glotok_ray/peers/multi_scale.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glotok_ray.nn.blocks import positions_on_grid, to_map, to_tokens
from glotok_ray.peers.multi_scale import MultiScaleQuantizer
from glotok_ray.peers.vision_transformer import DINOV2, PatchEmbedding, blocks

IMAGE_SIZE = 256
SIDES = (1, 1, 2, 3, 3, 4, 5, 6, 8, 11)
NUM_BRANCHES = 2
_PATCH_SIZE = 16
_GRID = IMAGE_SIZE // _PATCH_SIZE
_SIDE = SIDES[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolderConfig:
    """The size of both transformers, and of the codes."""

    num_codes: int = 4096
    """Rows of each branch's codebook."""
    code_width: int = 32
    """Numbers per code."""
    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Blocks of each of the two transformers."""
    num_heads: int = 12
    """Attention heads; must divide the width."""


class DINOv2Trunk(nn.Module):
    """What encoder and decoder share: the class token, positions of the image's grid, blocks and the last norm."""

    def __init__(self, config: ImageFolderConfig, num_kinds: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1, 1 + _GRID**2, config.width))
        self.kinds = nn.Parameter(torch.empty(num_kinds, config.width))
        """Added to the tokens of the image and to those of the latents."""
        self.blocks = blocks(config.depth, config.width, config.num_heads, DINOV2)
        self.norm_out = nn.LayerNorm(config.width, eps=DINOV2.norm_epsilon)

    def on_image(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t2 c"]:
        """The class token before tokens of the image's grid, with positions."""
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.positions + self.kinds[0]

    def latent_positions(self) -> Float[Tensor, "t c"]:
        """Positions of the grid, resampled for the latents' smaller one."""
        return positions_on_grid(self.positions[0, 1:], _SIDE, _SIDE)

    def forward(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Blocks and the last norm."""
        return self.norm_out(self.blocks(tokens))


class ImageFolderEncoder(nn.Module):
    """Image and learned latents through one transformer; the latents of both branches out."""

    def __init__(self, config: ImageFolderConfig) -> None:
        super().__init__()
        self.patches = PatchEmbedding(config.width, _PATCH_SIZE)
        self.latent_tokens = nn.Parameter(torch.empty(1, NUM_BRANCHES * _SIDE**2, config.width))
        self.trunk = DINOv2Trunk(config, 1 + NUM_BRANCHES)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b t c"]:
        """The tokens of branch 0, then those of branch 1."""
        trunk = self.trunk
        positions = trunk.latent_positions()
        added = torch.cat([positions + trunk.kinds[1 + branch] for branch in range(NUM_BRANCHES)])
        latents = (self.latent_tokens + added).expand(len(images), -1, -1)
        tokens = trunk(torch.cat([trunk.on_image(self.patches(images)), latents], dim=1))
        return tokens[:, -latents.shape[1] :]


class ImageFolderDecoder(nn.Module):
    """Latents and mask tokens through one transformer, and a linear map from tokens to their squares of pixels."""

    def __init__(self, config: ImageFolderConfig) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.trunk = DINOv2Trunk(config, 2)
        self.to_pixels = nn.Linear(config.width, 3 * _PATCH_SIZE**2)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1], not clamped."""
        trunk, batch = self.trunk, len(latents)
        masks = self.mask_token.expand(batch, _GRID**2, -1)
        # The latents have a class token of their own, with the position of the first one.
        again = (trunk.class_token + trunk.positions[:, :1]).expand(batch, -1, -1)
        given = torch.cat([again, to_tokens(latents) + trunk.latent_positions()], dim=1)
        tokens = trunk(torch.cat([trunk.on_image(masks), given + trunk.kinds[1]], dim=1))
        return _unfolded(self.to_pixels(tokens[:, 1 : 1 + _GRID**2]))


class ImageFolder(nn.Module):
    """Both transformers, a codebook per branch, and the projections between."""

    def __init__(self, config: ImageFolderConfig) -> None:
        super().__init__()
        self.config = config
        width, code_width = config.width, config.code_width
        self.encoder = ImageFolderEncoder(config)
        self.encoder_projection = nn.Conv2d(width, code_width, 1)
        self.quantizers = nn.ModuleList(
            MultiScaleQuantizer(config.num_codes, code_width, SIDES, "cosine")
            for _ in range(NUM_BRANCHES)
        )
        self.decoder_projection = nn.Conv2d(NUM_BRANCHES * code_width, width, 1)
        self.decoder = ImageFolderDecoder(config)

    def latents(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d t 1"]:
        """Both branches' latents, one after the other; images are in [-1, 1]."""
        return self.encoder_projection(self.encoder(images).transpose(1, 2).unsqueeze(3))

    def codes(self, latents: Float[Tensor, "b d t 1"]) -> tuple[Int[Tensor, "b t2"], ...]:
        """The codes of each branch, its scales small to large."""
        maps = latents.unflatten(2, (NUM_BRANCHES, _SIDE, _SIDE)).squeeze(5).unbind(2)
        return tuple(
            quantizer.encode(branch) for quantizer, branch in zip(self.quantizers, maps, strict=True)
        )

    def code_maps(self, codes: tuple[Int[Tensor, "b t"], ...]) -> Float[Tensor, "b d2 h w"]:
        """What the codes stand for, branch 0 in the first channels."""
        return torch.cat(
            [quantizer.decode(part) for quantizer, part in zip(self.quantizers, codes, strict=True)],
            dim=1,
        )

    def pixels(self, code_maps: Float[Tensor, "b d2 h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1], not clamped."""
        return self.decoder(self.decoder_projection(code_maps))


def _unfolded(squares: Float[Tensor, "b t c"]) -> Float[Tensor, "b 3 H W"]:
    """Squares in row-major order, each row by row with the colours last, as an image."""
    grid = squares.unflatten(2, (_PATCH_SIZE, _PATCH_SIZE, 3)).unflatten(1, (_GRID, _GRID))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
