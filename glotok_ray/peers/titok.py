"""TiTok (Yu et al. 2024): an image as a short row of tokens, which a vision transformer reads off learned latents.

Its decoder predicts MaskGIT's codes and mixes their vectors, which MaskGIT's decoder turns into pixels.
Facts about the released models S-128, B-64 and L-32; they work on images of 256 pixels in [0, 1].
Read next: glotok_ray/peers/vision_transformer.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.nn.blocks import to_map
from glotok_ray.nn.quantizer import nearest_codes
from glotok_ray.peers.maskgit_trunk import MaskGITDecoder
from glotok_ray.peers.vision_transformer import TITOK, PatchEmbedding, blocks

IMAGE_SIZE = 256
_PATCH_SIZE = 16
_GRID = IMAGE_SIZE // _PATCH_SIZE
_PIXEL_CODES, _PIXEL_CODE_WIDTH = 1024, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class TiTokConfig:
    """The size of both transformers, and of the codes."""

    width: int = 512
    """Channels of a token."""
    depth: int = 8
    """Blocks of each of the two transformers."""
    num_heads: int = 8
    """Attention heads; must divide the width."""
    num_latents: int = 128
    """Tokens per image."""
    num_codes: int = 4096
    """Rows of the codebook."""
    code_width: int = 12
    """Numbers per code."""


S128 = TiTokConfig()
B64 = TiTokConfig(width=768, depth=12, num_heads=12, num_latents=64)
L32 = TiTokConfig(width=1024, depth=24, num_heads=16, num_latents=32)


class TiTokEncoder(nn.Module):
    """Image and learned latents through one transformer; what the latents have become is the code."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        width = config.width
        self.patches = PatchEmbedding(width, _PATCH_SIZE)
        self.class_token = nn.Parameter(torch.empty(1, width))
        self.positions = nn.Parameter(torch.empty(1 + _GRID**2, width))
        self.latent_tokens = nn.Parameter(torch.empty(config.num_latents, width))
        self.latent_positions = nn.Parameter(torch.empty(config.num_latents, width))
        self.norm_in = nn.LayerNorm(width)
        self.blocks = blocks(config.depth, width, config.num_heads, TITOK)
        self.norm_out = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, config.code_width, 1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d 1 t"]:
        """The latents before they are matched with codes."""
        patches = self.patches(images)
        batch = len(patches)
        seen = torch.cat([_repeated(self.class_token, batch), patches], dim=1) + self.positions
        latents = _repeated(self.latent_tokens + self.latent_positions, batch)
        tokens = self.blocks(self.norm_in(torch.cat([seen, latents], dim=1)))
        latents = self.norm_out(tokens[:, -len(self.latent_tokens) :])
        # The released models read the tokens' memory as if channels came first, and were trained like that.
        scrambled = latents.reshape(batch, latents.shape[2], 1, latents.shape[1])
        return self.conv_out(scrambled)


class TiTokDecoder(nn.Module):
    """Code vectors and mask tokens through one transformer; scores for MaskGIT's codes out."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        width = config.width
        self.expand = nn.Linear(config.code_width, width)
        self.class_token = nn.Parameter(torch.empty(1, width))
        self.positions = nn.Parameter(torch.empty(1 + _GRID**2, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.latent_positions = nn.Parameter(torch.empty(config.num_latents, width))
        self.norm_in = nn.LayerNorm(width)
        self.blocks = blocks(config.depth, width, config.num_heads, TITOK)
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, _PIXEL_CODES, 1)
        )

    def forward(self, vectors: Float[Tensor, "b t d"]) -> Float[Tensor, "b n h w"]:
        """Logits over MaskGIT's 1,024 codes at 16 x 16 positions."""
        batch = len(vectors)
        latents = self.expand(vectors) + self.latent_positions
        masks = self.mask_token.expand(batch, _GRID**2, -1)
        asked = torch.cat([_repeated(self.class_token, batch), masks], dim=1) + self.positions
        tokens = self.blocks(self.norm_in(torch.cat([asked, latents], dim=1)))
        return self.head(to_map(self.norm_out(tokens[:, 1 : 1 + _GRID**2]), _GRID, _GRID))


class TiTok(nn.Module):
    """A row of codes, matched by cosine; their unit vectors are decoded."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TiTokEncoder(config)
        self.decoder = TiTokDecoder(config)
        self.codebook = nn.Parameter(torch.empty(config.num_codes, config.code_width))
        self.pixel_codebook = nn.Parameter(torch.empty(_PIXEL_CODES, _PIXEL_CODE_WIDTH))
        self.pixel_decoder = MaskGITDecoder(_PIXEL_CODE_WIDTH)

    def codes(self, latents: Float[Tensor, "b d 1 t"]) -> Int[Tensor, "b t"]:
        """The nearest code of every latent."""
        tokens = latents.squeeze(2).transpose(1, 2)
        found = nearest_codes(F.normalize(tokens, dim=2).flatten(0, 1), self.codebook)
        return found.unflatten(0, tokens.shape[:2])

    def logits(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b n h w"]:
        """Scores of MaskGIT's codes."""
        return self.decoder(F.embedding(codes, F.normalize(self.codebook, dim=1)))

    def pixels(self, logits: Float[Tensor, "b n h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of about [0, 1], not clamped: MaskGIT's code vectors are mixed by their probabilities."""
        mixed = torch.einsum("bnhw,nd->bdhw", logits.softmax(dim=1), self.pixel_codebook)
        return self.pixel_decoder(mixed)


def _repeated(tokens: Float[Tensor, "t c"], batch: int) -> Float[Tensor, "b t c"]:
    return tokens.unsqueeze(0).expand(batch, -1, -1)
