"""MaskBit's tokenizer (Weber et al. 2024): trunk G, and the signs of its latents as codes of 10 to 18 bits.

Read next: glotok_ray/peers/maskgit_trunk.py
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from glotok_ray.config.rules import require
from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate, grids_of
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.look_up import bits_on_map, signs_on_map
from glotok_ray.peers.maskgit_trunk import (
    DOWNSAMPLE_FACTOR,
    MaskGITDecoder,
    MaskGITEncoder,
    check_base_channels,
    decoder_names,
    encoder_names,
)
from glotok_ray.peers.released import Released, System, Table

_MOST_BITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskBitConfig:
    """A tokenizer of `markweberdev/maskbit`."""

    image_size: int = 256
    """Side of the square input image, pixels."""
    num_bits: int = 14
    """Channels of the latents: bits of a code, from 1 to 32."""
    base_channels: int = 128
    """Channels at the image's resolution; a multiple of 32. The lowest level has four times as many."""

    def __post_init__(self) -> None:
        check_base_channels(self.base_channels)
        require(
            1 <= self.num_bits <= _MOST_BITS,
            "num_bits",
            self.num_bits,
            f"must be from 1 to {_MOST_BITS}",
        )


class MaskBit(PeerTokenizer):
    """Trunk G on images in [0, 1] inside."""

    def __init__(self, config: MaskBitConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MaskGITEncoder(config.num_bits, "convolution", config.base_channels)
        self.decoder = MaskGITDecoder(config.num_bits, config.base_channels)

    @property
    def side_multiple(self) -> int:
        """Pixels per code along one side."""
        return DOWNSAMPLE_FACTOR

    @property
    def rate(self) -> Rate:
        """One square grid."""
        side = self.config.image_size // DOWNSAMPLE_FACTOR
        return Rate((Grid((side, side), 2**self.config.num_bits),))

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """Codes (b, h, w)."""
        return bits_on_map(self.encoder(images / 2 + 0.5))

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1]."""
        (grid,) = grids_of(codes, self.rate)
        dtype = next(self.parameters()).dtype
        return 2 * self.decoder(signs_on_map(grid, self.config.num_bits).to(dtype)) - 1


def _names(config: MaskBitConfig) -> Table:
    # The file lists all codes and the value of each bit, which is what codes mean already.
    return (
        (r"^quantize\.(bits_to_indices|codebook)$", None),
        *encoder_names(),
        *decoder_names(full_resolution_first=False),
    )


def _released(num_bits: int, rfid: float, note: str = "") -> Released:
    return Released(
        MaskBitConfig(num_bits=num_bits),
        f"Hugging Face markweber/maskbit_tokenizer_{num_bits}bit, maskbit_tokenizer_{num_bits}bit.bin",
        rfid,
        source="README of markweberdev/maskbit: validation images after Resize(256) and CenterCrop, features of "
        f"truncated 8-bit images; no PSNR is published{note}",
    )


SYSTEM = System(
    MaskBit,
    MaskBitConfig,
    {
        "maskbit_10bit": _released(10, 1.76),
        "maskbit_12bit": _released(12, 1.52),
        "maskbit_14bit": _released(14, 1.37),
        "maskbit_16bit": _released(16, 1.29),
        "maskbit_18bit": _released(18, 1.16, "; one of the bits never changes"),
    },
    _names,
    "Apache-2.0",
    psnr_protocol="unrounded",
    crop_protocol="bilinear",
    feature_pixels="truncated",
)
