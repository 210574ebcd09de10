"""Open-MAGVIT2 (Luo et al. 2024): convolutions without attention, and look-up without a codebook (LFQ).

Read next: glotok_ray/peers/magvit_trunk.py
"""

from jaxtyping import Float, Int
from torch import Tensor

from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.look_up import bits_on_map, signs_on_map
from glotok_ray.peers.magvit_trunk import MagvitConfig, MagvitDecoder, MagvitEncoder
from glotok_ray.peers.released import Released, System, Table
from glotok_ray.peers.taming_names import turned


class OpenMAGVIT2Tokenizer(PeerTokenizer):
    """Codes (b, h, w) of `num_bits` bits."""

    config: MagvitConfig

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MagvitEncoder(config)
        self.decoder = MagvitDecoder(config)

    @property
    def side_multiple(self) -> int | None:
        """Pixels per position; one position alone has no variance, for which the decoder asks."""
        return self.config.downsample_factor

    @property
    def rate(self) -> Rate:
        """One square grid."""
        side = self.config.image_size // self.config.downsample_factor
        return Rate((Grid((side, side), 2**self.config.num_bits),))

    def unquantized(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """What the bits are of."""
        return self.encoder(images)

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Int[Tensor, "b h w"]:
        """The codes of checked images in [-1, 1]."""
        return bits_on_map(self.unquantized(images))

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of checked codes, about [-1, 1] and not clamped."""
        assert isinstance(codes, Tensor)
        signs = signs_on_map(codes, self.config.num_bits)
        return self.decoder(signs.to(next(self.parameters()).dtype))


def _names(config: MagvitConfig) -> Table:
    levels = len(config.channel_multipliers)
    adaptive = tuple(
        (rf"^decoder\.adaptive\.{level}\.", rf"decoder.levels.{levels - 1 - level}.adaptive.")
        for level in range(levels)
    )
    return (
        *turned(levels, "levels"),
        *adaptive,
        (r"^encoder\.down\.", r"encoder.levels."),
        (r"\.levels\.(\d+)\.block\.", r".levels.\1.blocks."),
        (r"\.(?:down|up)sample\.", r".resample."),
        (r"\.resample\.conv1\.", r".resample.conv."),
        (r"\.mid_block\.", r".middle."),
        (r"\.nin_shortcut\.", r".shortcut."),
    )


_SOURCE = "SEED-Voken docs/Open-MAGVIT2; FID of un-rounded floats, PSNR of truncated pixels"
_PRETRAINED = "SEED-Voken docs/Open-MAGVIT2, of ImageNet; trained on 100M other images"
_256 = MagvitConfig()
_16384 = MagvitConfig(num_bits=14)
_128 = MagvitConfig(image_size=128, channel_multipliers=(1, 2, 2, 4))


def _file(size: str, name: str) -> str:
    return f"TencentARC/Open-MAGVIT2-Tokenizer-{size}, {name}.ckpt"


SYSTEM = System(
    tokenizer=OpenMAGVIT2Tokenizer,
    config=MagvitConfig,
    released={
        "open_magvit2_256": Released(
            _256, _file("256-resolution", "imagenet_256_L"), 1.17, 21.90, _SOURCE
        ),
        "open_magvit2_128": Released(
            _128, _file("128-resolution", "imagenet_128_L"), 1.18, 25.08, _SOURCE
        ),
        "open_magvit2_pretrain_16384": Released(
            _16384, _file("16384-Pretrain", "pretrain256_16384"), 2.55, 22.21, _PRETRAINED
        ),
        "open_magvit2_pretrain_262144": Released(
            _256, _file("262144-Pretrain", "pretrain256_262144"), 1.67, 22.70, _PRETRAINED
        ),
    },
    names=_names,
    licence="Apache-2.0 (code and weights)",
    psnr_protocol="truncated",
    crop_protocol="bilinear",
    feature_pixels="unrounded",
)
