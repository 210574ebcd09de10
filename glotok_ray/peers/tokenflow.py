"""TokenFlow (Qu et al. 2024): CLIP's features and VQGAN's share one index per position, over nine scales.

Each code has a semantic and a pixel part in two codebooks; the decoder of images reads the pixel part alone.
Read next: glotok_ray/peers/multi_scale.py
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.config.rules import require, require_positive
from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.nn.autoencoder import PixelDecoder, PixelEncoder
from glotok_ray.nn.blocks import to_map
from glotok_ray.nn.tokenizer_protocol import Codes, Rate, grids_of
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.look_up import nearest_known, rows_on_map
from glotok_ray.peers.multi_scale import (
    Scales,
    decode_scales,
    encode_scales,
    scale_grids,
    upsampled,
)
from glotok_ray.peers.released import Released, System, Table
from glotok_ray.peers.taming_names import ONE_LATENT, TRUNK
from glotok_ray.peers.vision_transformer import (
    CLIP,
    CLIP_NAMES,
    PatchEmbedding,
    blocks,
    require_heads,
)

SIDES = (1, 2, 4, 6, 8, 10, 12, 14, 16)
"""Of the maps of codes, small to large; at 256 pixels."""
_PATCH_SIZE = 16
# The release adds it to the grid's side and resamples by the factor, which also shifts where samples are taken.
_POSITION_OFFSET = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFlowConfig:
    """The "enhanced" tokenizer of `ByteFlow-AI/TokenFlow` with CLIP-B at 256 pixels."""

    encoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """The trunk that reads pixels; its image_size is the tokenizer's."""
    decoder: AutoencoderConfig = field(
        default_factory=lambda: AutoencoderConfig(base_channels=256, num_res_blocks=4)
    )
    """The trunk that writes pixels; its encoder is not built."""
    width: int = 768
    """Channels of a token of CLIP's tower."""
    depth: int = 12
    """Blocks of CLIP's tower."""
    num_heads: int = 12
    """Attention heads; must divide the width."""
    trained_grid: int = 14
    """Positions along a side that the tower has learned."""
    num_codes: int = 32_768
    """Rows of both codebooks."""
    semantic_width: int = 32
    """Numbers of the semantic part of a code."""
    pixel_width: int = 8
    """Numbers of the pixel part of a code."""

    def __post_init__(self) -> None:
        require(
            self.encoder.grid_size == SIDES[-1] == self.image_size // _PATCH_SIZE,
            "encoder.image_size",
            self.image_size,
            f"must give {SIDES[-1]} x {SIDES[-1]} positions, in the trunk and in patches of {_PATCH_SIZE} pixels",
        )
        require_heads(self.width, self.num_heads)
        names = ("num_codes", "semantic_width", "pixel_width", "trained_grid", "width", "depth")
        require_positive("model", self, names)

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return self.encoder.image_size


class CLIPTower(nn.Module):
    """The vision tower of OpenAI's CLIP without its projection; it takes images in [-1, 1] as they are."""

    def __init__(self, config: TokenFlowConfig) -> None:
        super().__init__()
        width = config.width
        self.patches = PatchEmbedding(width, _PATCH_SIZE, bias=False)
        self.class_token = nn.Parameter(torch.randn(width))
        self.positions = nn.Parameter(torch.randn(1 + config.trained_grid**2, width))
        self.norm_in = nn.LayerNorm(width)
        self.blocks = blocks(config.depth, width, config.num_heads, CLIP)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b t c"]:
        """The tokens of all squares of 16 pixels in row-major order, without the class token."""
        patches = self.patches(images)
        first = (self.class_token + self.positions[0]).expand(len(patches), 1, -1)
        patches = patches + self._grid_positions(images.shape[-1] // _PATCH_SIZE)
        tokens = self.blocks(self.norm_in(torch.cat([first, patches], dim=1)))
        return self.norm_out(tokens)[:, 1:]

    def _grid_positions(self, side: int) -> Float[Tensor, "t c"]:
        learned = self.positions[1:]
        trained = math.isqrt(len(learned))
        if side == trained:
            return learned
        grid = learned.T.unflatten(1, (trained, trained)).unsqueeze(0)
        factor = (side + _POSITION_OFFSET) / trained
        return F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")[0].flatten(1).T


class TokenFlow(PeerTokenizer):
    """Both encoders, the joint codebook and the decoder of pixels."""

    def __init__(self, config: TokenFlowConfig) -> None:
        super().__init__()
        self.config = config
        width, latent = config.width, config.encoder.latent_channels
        self.semantic_encoder = CLIPTower(config)
        self.semantic_projection = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.semantic_width)
        )
        self.encoder = PixelEncoder(config.encoder)
        self.projection = nn.Conv2d(latent, config.pixel_width, 1)
        self.semantic_codebook = nn.Parameter(torch.randn(config.num_codes, config.semantic_width))
        self.pixel_codebook = nn.Parameter(torch.randn(config.num_codes, config.pixel_width))
        self.decoder_projection = nn.Conv2d(config.pixel_width, config.decoder.latent_channels, 1)
        self.decoder = PixelDecoder(config.decoder)

    @property
    def side_multiple(self) -> None:
        """Images of `image_size` alone."""
        return None

    @property
    def rate(self) -> Rate:
        """One map of codes per scale; each code is an index into both codebooks."""
        return Rate(scale_grids(SIDES, self.config.num_codes))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Every scale."""
        return self.grid_names

    def parts_alone(self, codes: Codes) -> dict[str, Float[Tensor, "b 3 H W"]]:
        """Images of every scale alone."""
        named = zip(self.part_names, grids_of(codes, self.rate), strict=True)
        return {name: self.decode_latents(self.latents((indices,))) for name, indices in named}

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """Nine maps of codes (b, p, p)."""
        return self.find(self.unquantized(images))

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1]."""
        return self.decode_latents(self.latents(grids_of(codes, self.rate)))

    def unquantized(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """Semantic channels, then pixel channels."""
        semantic = self.semantic_projection(self.semantic_encoder(images))
        pixels = self.projection(self.encoder(images))
        return torch.cat([to_map(semantic, *pixels.shape[2:]), pixels], dim=1)

    def find(self, z: Float[Tensor, "b d h w"]) -> Scales:
        """The codes of all scales, small to large."""
        joint = self._joint_codebook()
        return encode_scales(
            z,
            SIDES,
            lambda part: self._find(part, joint),
            lambda indices, _: upsampled(rows_on_map(indices, joint), SIDES[-1]),
        )

    def latents(self, scales: Scales) -> Float[Tensor, "b d h w"]:
        """What the codes stand for, in the channels of `unquantized`."""
        joint = self._joint_codebook()
        return decode_scales(
            scales, lambda indices, _: upsampled(rows_on_map(indices, joint), SIDES[-1])
        )

    def decode_latents(self, latents: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of what codes stand for; the semantic channels are not read."""
        return self.decoder(self.decoder_projection(latents[:, self.config.semantic_width :]))

    def _joint_codebook(self) -> Float[Tensor, "n d"]:
        """Both parts of each code, each of unit length."""
        parts = (self.semantic_codebook, self.pixel_codebook)
        return torch.cat([F.normalize(part, dim=1) for part in parts], dim=1)

    def _find(
        self, latents: Float[Tensor, "b d p p"], joint: Float[Tensor, "n d"]
    ) -> Int[Tensor, "b p p"]:
        semantic, pixel = latents.split(
            [self.config.semantic_width, self.config.pixel_width], dim=1
        )
        parts = torch.cat([F.normalize(semantic, dim=1), F.normalize(pixel, dim=1)], dim=1)
        tokens = parts.permute(0, 2, 3, 1)
        # All joint codes have one length, so the least sum of both distances is the greatest cosine.
        found = nearest_known(tokens.flatten(0, 2), joint)
        return found.unflatten(0, tokens.shape[:3])


def _names(config: TokenFlowConfig) -> Table:
    # Rows of the semantic decoder, which no image needs, and statistics of used codes.
    left_out = (r"^decoder_vqkd\.", r"^decode_task_layer\.", r"^quantize\.codebook_used$")
    return (
        *((pattern, None) for pattern in left_out),
        (r"^encoder_vqkd\.conv1\.", r"semantic_encoder.patches.conv."),
        (r"^encoder_vqkd\.class_embedding$", r"semantic_encoder.class_token"),
        (r"^encoder_vqkd\.positional_embedding$", r"semantic_encoder.positions"),
        (r"^encoder_vqkd\.", r"semantic_encoder."),
        *CLIP_NAMES,
        (r"^encode_task_layer\.", r"semantic_projection."),
        (r"^quantize\.embedding_vqkd\.weight$", r"semantic_codebook"),
        (r"^quantize\.embedding_vqgan\.weight$", r"pixel_codebook"),
        *TRUNK,
        *ONE_LATENT,
    )


SYSTEM = System(
    TokenFlow,
    TokenFlowConfig,
    {
        "tokenflow": Released(
            TokenFlowConfig(),
            "Hugging Face ByteFlow-AI/TokenFlow, tokenflow_clipb_32k_enhanced.pt",
            source="not in the repository; GloTok's Table 1 has 1.37 / 21.4 and does not say of which file",
        )
    },
    _names,
    "MIT (code: Apache-2.0)",
)
