"""VQGAN-LC (Zhu et al. 2024): VQGAN's trunk, whose codes are frozen CLIP features under one trained projection.

Read next: glotok_ray/peers/rq_vae.py
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glotok_ray.config.rules import require_positive
from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate
from glotok_ray.peers.look_up import nearest_on_map, rows_on_map
from glotok_ray.peers.released import Released, System, Table
from glotok_ray.peers.taming_names import taming_names
from glotok_ray.peers.trunk import TrunkTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class VQGANLCConfig:
    """One of its tokenizers of 16 pixels per position; that of 8 has attention in the middle alone, and is left out."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Trunk."""
    num_codes: int = 100_000
    """Rows of the codebook."""
    feature_width: int = 768
    """Width of the frozen CLIP features."""
    code_width: int = 8
    """Width of the codes."""

    def __post_init__(self) -> None:
        require_positive("model", self, ("num_codes", "feature_width", "code_width"))

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return self.autoencoder.image_size


class VQGANLCTokenizer(TrunkTokenizer):
    """Codes (b, h, w)."""

    config: VQGANLCConfig

    def __init__(self, config: VQGANLCConfig) -> None:
        super().__init__(config, code_width=config.code_width)
        self.features = nn.Parameter(torch.randn(config.num_codes, config.feature_width))
        self.codebook_projection = nn.Linear(config.feature_width, config.code_width)

    @property
    def rate(self) -> Rate:
        """One square grid."""
        side = self.config.autoencoder.grid_size
        return Rate((Grid((side, side), self.config.num_codes),))

    def codebook(self) -> Float[Tensor, "n d"]:
        """The features as they are looked up; a fortieth of the cost of one image's encoder."""
        return self.codebook_projection(self.features)

    def find(self, z: Float[Tensor, "b d h w"]) -> Int[Tensor, "b h w"]:
        """The codes of least Euclidean distance; nothing is normalised."""
        return nearest_on_map(z, self.codebook())

    def latents(self, codes: Codes) -> Float[Tensor, "b d h w"]:
        """Projected rows, of those features alone that occur."""
        assert isinstance(codes, Tensor)
        rows = self.codebook_projection(rows_on_map(codes, self.features).movedim(1, -1))
        return rows.movedim(-1, 1)


def _names(config: VQGANLCConfig) -> Table:
    return (
        (r"^(discriminator|perceptual_loss)\.", None),
        *taming_names(len(config.autoencoder.channel_multipliers)),
        (r"^tok_embeddings\.weight$", r"features"),
    )


_SOURCE = (
    "the paper; not comparable: rFID against the raw, uncropped validation folder (clean-fid), PSNR of luminance (as "
    "GloTok's Table 1 gives it)"
)

SYSTEM = System(
    tokenizer=VQGANLCTokenizer,
    config=VQGANLCConfig,
    released={
        "vqgan_lc_16384": Released(
            VQGANLCConfig(num_codes=16384),
            "Google Drive of zh460045050/VQGAN-LC, vqgan-lc-16384-f16-dim8.pth",
            3.01,
            23.2,
            _SOURCE,
        ),
        "vqgan_lc_100k": Released(
            VQGANLCConfig(),
            "Google Drive of zh460045050/VQGAN-LC, vqgan-lc-100K-f16-dim8.pth (trained for 20 epochs; the paper's 100 "
            "are not released)",
            2.62,
            23.8,
            _SOURCE,
        ),
    },
    names=_names,
    licence="none given (code and weights), so nothing of it may be passed on",
    psnr_protocol="luminance",
    crop_protocol="plain_bilinear",
    feature_pixels="truncated",
)
