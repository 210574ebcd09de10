"""TiTok (Yu et al. 2024): an image as a short row of tokens, which a vision transformer reads off learned latents.

Its decoder predicts MaskGIT's codes and mixes their vectors, which MaskGIT's decoder turns into pixels.
It comes in the sizes S-128, B-64 and L-32, which say the number of tokens.
Read next: glotok_ray/peers/vision_transformer.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.config.rules import require_positive
from glotok_ray.nn.blocks import to_map
from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate, grids_of
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.look_up import nearest_known
from glotok_ray.peers.maskgit_trunk import (
    DOWNSAMPLE_FACTOR,
    MaskGITDecoder,
    check_base_channels,
    decoder_names,
)
from glotok_ray.peers.released import Released, System, Table
from glotok_ray.peers.vision_transformer import (
    CLIP_NAMES,
    TITOK,
    PatchEmbedding,
    blocks,
    require_heads,
    require_patches,
)

_PIXEL_CODES, _PIXEL_CODE_WIDTH = 1024, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class TiTokConfig:
    """A tokenizer of `bytedance/1d-tokenizer` whose codes are decoded by way of MaskGIT's."""

    image_size: int = 256
    """Side of the square input image, pixels: positions are learned for this size alone."""
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
    base_channels: int = 128
    """Channels of MaskGIT's decoder at the image's resolution; a multiple of 32."""

    def __post_init__(self) -> None:
        check_base_channels(self.base_channels)
        require_patches(self.image_size, DOWNSAMPLE_FACTOR)
        require_heads(self.width, self.num_heads)
        names = ("num_codes", "code_width", "num_latents", "width", "depth")
        require_positive("model", self, names)

    @property
    def grid_size(self) -> int:
        """Positions along one side."""
        return self.image_size // DOWNSAMPLE_FACTOR


class TiTokEncoder(nn.Module):
    """Image and learned latents through one transformer; what the latents have become is the code."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        width = config.width
        self.patches = PatchEmbedding(width, DOWNSAMPLE_FACTOR)
        self.class_token = nn.Parameter(torch.randn(1, width))
        self.positions = nn.Parameter(torch.randn(1 + config.grid_size**2, width))
        self.latent_tokens = nn.Parameter(torch.randn(config.num_latents, width))
        self.latent_positions = nn.Parameter(torch.randn(config.num_latents, width))
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
        self.grid_size = config.grid_size
        self.expand = nn.Linear(config.code_width, width)
        self.class_token = nn.Parameter(torch.randn(1, width))
        self.positions = nn.Parameter(torch.randn(1 + config.grid_size**2, width))
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        self.latent_positions = nn.Parameter(torch.randn(config.num_latents, width))
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
        masks = self.mask_token.expand(batch, self.grid_size**2, -1)
        asked = torch.cat([_repeated(self.class_token, batch), masks], dim=1) + self.positions
        tokens = self.blocks(self.norm_in(torch.cat([asked, latents], dim=1)))
        asked = self.norm_out(tokens[:, 1 : 1 + self.grid_size**2])
        return self.head(to_map(asked, self.grid_size, self.grid_size))


class TiTok(PeerTokenizer):
    """A sequence of codes, matched by cosine; their unit vectors are decoded. Images are in [0, 1] inside."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TiTokEncoder(config)
        self.decoder = TiTokDecoder(config)
        self.codebook = nn.Parameter(torch.randn(config.num_codes, config.code_width))
        self.pixel_codebook = nn.Parameter(torch.randn(_PIXEL_CODES, _PIXEL_CODE_WIDTH))
        self.pixel_decoder = MaskGITDecoder(_PIXEL_CODE_WIDTH, config.base_channels)

    @property
    def side_multiple(self) -> None:
        """Images of `image_size` alone."""
        return None

    @property
    def rate(self) -> Rate:
        """One sequence."""
        return Rate((Grid((self.config.num_latents,), self.config.num_codes),))

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """Codes (b, t)."""
        return self.find(self.encoder(images / 2 + 0.5))

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1]."""
        (sequence,) = grids_of(codes, self.rate)
        return 2 * self.pixels(self.logits(sequence)) - 1

    def find(self, z: Float[Tensor, "b d 1 t"]) -> Int[Tensor, "b t"]:
        """The nearest code of every latent."""
        tokens = z.squeeze(2).transpose(1, 2)
        found = nearest_known(F.normalize(tokens, dim=2).flatten(0, 1), self.codebook)
        return found.unflatten(0, tokens.shape[:2])

    def logits(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b n h w"]:
        """Scores of MaskGIT's codes."""
        return self.decoder(F.embedding(codes.long(), F.normalize(self.codebook, dim=1)))

    def pixels(self, logits: Float[Tensor, "b n h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of about [0, 1]: MaskGIT's code vectors are mixed by their probabilities."""
        mixed = torch.einsum("bnhw,nd->bdhw", logits.softmax(dim=1), self.pixel_codebook)
        return self.pixel_decoder(mixed)


def _repeated(tokens: Float[Tensor, "t c"], batch: int) -> Float[Tensor, "b t c"]:
    return tokens.unsqueeze(0).expand(batch, -1, -1)


def _names(config: TiTokConfig) -> Table:
    return (
        *decoder_names(full_resolution_first=True, prefix="pixel_decoder", mid="mid"),
        (r"^latent_tokens$", r"encoder.latent_tokens"),
        (r"^encoder\.patch_embed\.", r"encoder.patches.conv."),
        (r"^(encoder|decoder)\.class_embedding$", r"\1.class_token"),
        (r"^(encoder|decoder)\.positional_embedding$", r"\1.positions"),
        (r"^(encoder|decoder)\.latent_token_positional_embedding$", r"\1.latent_positions"),
        (r"^decoder\.decoder_embed\.", r"decoder.expand."),
        (r"^decoder\.ffn\.", r"decoder.head."),
        (r"^quantize\.embedding\.weight$", r"codebook"),
        (r"^pixel_quantize\.embedding\.weight$", r"pixel_codebook"),
        *CLIP_NAMES,
    )


def _released(config: TiTokConfig, name: str, rfid: float, note: str = "") -> Released:
    return Released(
        config,
        f"Hugging Face yucornetto/tokenizer_titok_{name}_imagenet, model.safetensors; or fun-research/TiTok, "
        f"tokenizer_titok_{name}.bin",
        rfid,
        source="README of bytedance/1d-tokenizer: validation images after Resize(256, bicubic) and "
        f"CenterCrop, 8-bit images; no PSNR is published{note}",
    )


SYSTEM = System(
    TiTok,
    TiTokConfig,
    {
        "titok_s128": _released(
            TiTokConfig(),
            "s128",
            1.71,
            "; a user measured 3.91 with the released file (1d-tokenizer issue 105)",
        ),
        "titok_b64": _released(
            TiTokConfig(width=768, depth=12, num_heads=12, num_latents=64), "b64", 1.70
        ),
        "titok_l32": _released(
            TiTokConfig(width=1024, depth=24, num_heads=16, num_latents=32), "l32", 2.21
        ),
    },
    _names,
    "Apache-2.0",
    crop_protocol="bicubic",
)
