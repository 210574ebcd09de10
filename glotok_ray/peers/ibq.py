"""IBQ (Shi et al. 2024): VQGAN's trunk with four blocks per level, looked up by the inner product with raw codes.

Read next: glotok_ray/peers/vqgan_lc.py
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glotok_ray.config.rules import require_positive
from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate
from glotok_ray.peers.look_up import largest_product_on_map, rows_on_map
from glotok_ray.peers.released import Released, System, Table
from glotok_ray.peers.taming_names import taming_names
from glotok_ray.peers.trunk import TrunkTokenizer


def _four_blocks() -> AutoencoderConfig:
    return AutoencoderConfig(num_res_blocks=4)


@dataclass(frozen=True, kw_only=True, slots=True)
class IBQConfig:
    """One of its tokenizers."""

    autoencoder: AutoencoderConfig = field(default_factory=_four_blocks)
    """Trunk; the decoder has five blocks per level."""
    num_codes: int = 16384
    """Rows of the codebook, as wide as the trunk's latent."""

    def __post_init__(self) -> None:
        require_positive("model", self, ("num_codes",))

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return self.autoencoder.image_size


class IBQTokenizer(TrunkTokenizer):
    """Codes (b, h, w)."""

    config: IBQConfig

    def __init__(self, config: IBQConfig) -> None:
        width = config.autoencoder.latent_channels
        super().__init__(config, code_width=width)
        self.codebook = nn.Parameter(torch.randn(config.num_codes, width))

    @property
    def rate(self) -> Rate:
        """One square grid."""
        side = self.config.autoencoder.grid_size
        return Rate((Grid((side, side), self.config.num_codes),))

    def find(self, z: Float[Tensor, "b d h w"]) -> Int[Tensor, "b h w"]:
        """The codes of the largest inner product; nothing is normalised."""
        return largest_product_on_map(z, self.codebook)

    def latents(self, codes: Codes) -> Float[Tensor, "b d h w"]:
        """Raw rows."""
        assert isinstance(codes, Tensor)
        return rows_on_map(codes, self.codebook)


def _names(config: IBQConfig) -> Table:
    levels = len(config.autoencoder.channel_multipliers)
    return (*taming_names(levels), (r"^quantize\.embedding\.weight$", r"codebook"))


_SOURCE = (
    "SEED-Voken docs/IBQ; FID of un-rounded floats; no PSNR is published for the ImageNet models"
)
_PRETRAINED = "SEED-Voken docs/IBQ, of ImageNet; trained on other images than ImageNet's"


def _released(num_codes: int, rfid: float) -> Released:
    file = f"TencentARC/IBQ-Tokenizer-{num_codes}, imagenet256_{num_codes}.ckpt"
    return Released(IBQConfig(num_codes=num_codes), file, rfid, None, _SOURCE)


def _pretrained(num_codes: int, rfid: float, psnr: float) -> Released:
    file = f"TencentARC/IBQ-Tokenizer-{num_codes}-Pretrain, IBQ_pretrain_{num_codes}.ckpt"
    return Released(IBQConfig(num_codes=num_codes), file, rfid, psnr, _PRETRAINED)


SYSTEM = System(
    tokenizer=IBQTokenizer,
    config=IBQConfig,
    released={
        "ibq_1024": _released(1024, 2.24),
        "ibq_8192": _released(8192, 1.87),
        "ibq_16384": _released(16384, 1.37),
        "ibq_262144": _released(262144, 1.00),
        "ibq_pretrain_16384": _pretrained(16384, 2.06, 22.01),
        "ibq_pretrain_262144": _pretrained(262144, 1.53, 22.69),
    },
    names=_names,
    licence="Apache-2.0 (code and weights)",
    psnr_protocol="truncated",
    crop_protocol="plain_bilinear",
    feature_pixels="unrounded",
)
