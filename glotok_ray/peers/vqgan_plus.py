"""VQGAN+ (Weber et al. 2024) and MaskGIT's VQGAN (Chang et al. 2022): trunk G with a codebook, by Euclidean distance.

Read next: glotok_ray/peers/maskgit_trunk.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.rules import require
from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate, grids_of
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.look_up import nearest_on_map, rows_on_map
from glotok_ray.peers.maskgit_trunk import (
    DOWNSAMPLE_FACTOR,
    MaskGITDecoder,
    MaskGITEncoder,
    Pooling,
    check_base_channels,
    decoder_names,
    encoder_names,
)
from glotok_ray.peers.released import Released, System, Table


@dataclass(frozen=True, kw_only=True, slots=True)
class VQGANPlusConfig:
    """A tokenizer of `markweberdev/maskbit` with a learned codebook."""

    image_size: int = 256
    """Side of the square input image, pixels."""
    num_codes: int = 4096
    """Rows of the codebook."""
    code_width: int = 64
    """Numbers per code, and channels of the latents."""
    pooling: Pooling = "convolution"
    """How the encoder halves a map; "average" is MaskGIT's."""
    base_channels: int = 128
    """Channels at the image's resolution; a multiple of 32. The lowest level has four times as many."""

    def __post_init__(self) -> None:
        check_base_channels(self.base_channels)
        require(self.num_codes >= 1, "num_codes", self.num_codes, "must be at least 1")
        require(self.code_width >= 1, "code_width", self.code_width, "must be at least 1")


class VQGANPlus(PeerTokenizer):
    """Trunk G on images in [0, 1] inside; the codes' vectors are the codebook's rows."""

    def __init__(self, config: VQGANPlusConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MaskGITEncoder(config.code_width, config.pooling, config.base_channels)
        self.codebook = nn.Parameter(torch.randn(config.num_codes, config.code_width))
        self.decoder = MaskGITDecoder(config.code_width, config.base_channels)

    @property
    def side_multiple(self) -> int:
        """Pixels per code along one side."""
        return DOWNSAMPLE_FACTOR

    @property
    def rate(self) -> Rate:
        """One square grid."""
        side = self.config.image_size // DOWNSAMPLE_FACTOR
        return Rate((Grid((side, side), self.config.num_codes),))

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """Codes (b, h, w)."""
        return nearest_on_map(self.encoder(images / 2 + 0.5), self.codebook)

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1]."""
        (grid,) = grids_of(codes, self.rate)
        return 2 * self.decoder(rows_on_map(grid, self.codebook)) - 1


def _names(config: VQGANPlusConfig) -> Table:
    return (
        (r"^quantize\.embedding\.weight$", "codebook"),
        *encoder_names(),
        *decoder_names(full_resolution_first=config.pooling == "average"),
    )


def _released(config: VQGANPlusConfig, name: str, rfid: float) -> Released:
    return Released(
        config,
        f"Hugging Face markweber/{name}, {name}.bin",
        rfid,
        source="README of markweberdev/maskbit: validation images after Resize(256) and CenterCrop, features of "
        "truncated 8-bit images; no PSNR is published",
    )


_WIDE = VQGANPlusConfig(num_codes=1024, code_width=256)
_MASKGIT = VQGANPlusConfig(num_codes=1024, code_width=256, pooling="average")
SYSTEM = System(
    VQGANPlus,
    VQGANPlusConfig,
    {
        "vqgan_plus_10bit": _released(_WIDE, "vqgan_plus_paper", 1.67),
        "vqgan_plus_12bit": _released(VQGANPlusConfig(), "vqgan_plus_12bit", 1.39),
        "maskgit_vqgan": _released(_MASKGIT, "maskgit_tokenizer", 1.96),
    },
    _names,
    "Apache-2.0",
    psnr_protocol="unrounded",
    crop_protocol="bilinear",
    feature_pixels="truncated",
)
