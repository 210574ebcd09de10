"""VAR's multi-scale VQVAE (Tian et al. 2024): a wider trunk, and codes of what is left over at rising resolutions.

Read next: glotok_ray/peers/multi_scale.py
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor

from glotok_ray.config.rules import require, require_positive
from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.nn.tokenizer_protocol import Codes, grids_of
from glotok_ray.peers.multi_scale import (
    SMOOTHING_OF_SCALE,
    MultiScaleQuantizer,
    ScaledTokenizer,
    Scales,
)
from glotok_ray.peers.released import Released, System, Table
from glotok_ray.peers.taming_names import taming_names
from glotok_ray.peers.trunk import TrunkTokenizer


def _wider() -> AutoencoderConfig:
    return AutoencoderConfig(base_channels=160, latent_channels=32)


@dataclass(frozen=True, kw_only=True, slots=True)
class VARConfig:
    """The tokenizer at one image size; the same file serves 256 and 512 pixels."""

    autoencoder: AutoencoderConfig = field(default_factory=_wider)
    """Trunk."""
    num_codes: int = 4096
    """Rows of the codebook, as wide as the trunk's latent."""
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sides of the grids, rising to the trunk's own."""
    smoothing: tuple[int, ...] = SMOOTHING_OF_SCALE
    """Which convolution smooths each scale."""

    def __post_init__(self) -> None:
        require_positive("model", self, ("num_codes",))
        sides, grid = self.sides, self.autoencoder.grid_size
        require(
            bool(sides) and sides[0] >= 1 and list(sides) == sorted(sides) and sides[-1] == grid,
            "model.sides",
            sides,
            f"must rise from at least 1 to {grid}, the side of the trunk's grid",
        )
        require(
            len(self.smoothing) == len(sides) and min(self.smoothing) >= 0,
            "model.smoothing",
            self.smoothing,
            f"must hold the number of a convolution, from 0, for each of the {len(sides)} sides",
        )

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return self.autoencoder.image_size


class VARTokenizer(ScaledTokenizer, TrunkTokenizer):
    """Codes: a tuple of (b, side, side), from the coarsest to the finest."""

    config: VARConfig

    def __init__(self, config: VARConfig) -> None:
        width = config.autoencoder.latent_channels
        super().__init__(config, code_width=width, kernel_size=3)
        shape = (config.num_codes, width)
        self.quantizer = MultiScaleQuantizer(shape, "euclidean", config.sides, config.smoothing)

    @property
    def code_width(self) -> int:
        """Channels of the map that the scales add up to."""
        return self.config.autoencoder.latent_channels

    def contribution(self, indices: Int[Tensor, "b p p"], scale: int) -> Float[Tensor, "b d h w"]:
        """What the codes of a scale, given by its number, add to the map."""
        return self.quantizer.contribution(indices, scale)

    def find(self, z: Float[Tensor, "b d h w"]) -> Scales:
        """Per scale the nearest codes of what the scales before it left over."""
        return self.quantizer.encode(z)

    def latents(self, codes: Codes) -> Float[Tensor, "b d h w"]:
        """The sum of what the scales stand for."""
        return self.quantizer.decode(grids_of(codes, self.rate))


def _split_attention(tensors: Mapping[str, Tensor], config: VARConfig) -> dict[str, Tensor]:
    """A file holds queries, keys and values of an attention in one tensor."""
    found = {}
    for name, value in tensors.items():
        if ".qkv." in name and value.ndim and len(value) % 3 == 0:
            parts = zip("qkv", value.chunk(3), strict=True)
            found |= {name.replace(".qkv.", f".{part}."): rows for part, rows in parts}
        else:
            found[name] = value
    return found


def _names(config: VARConfig) -> Table:
    return (
        (r"\.ema_vocab_hit_SV$", None),
        *taming_names(len(config.autoencoder.channel_multipliers)),
        (r"^quantize\.quant_resi\.qresi_ls\.", r"quantizer.smoothings."),
        (r"^quantize\.embedding\.weight$", r"quantizer.codebook"),
    )


_FILE = "FoundationVision/var, vae_ch160v4096z32.pth"
_512 = VARConfig(
    autoencoder=replace(_wider(), image_size=512), sides=(1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
)

SYSTEM = System(
    tokenizer=VARTokenizer,
    config=VARConfig,
    released={
        "var_256": Released(
            VARConfig(),
            _FILE,
            None,
            None,
            "none by its authors; a user measured an rFID of 0.92 against validation crops (VAR issue 45)",
        ),
        "var_512": Released(_512, _FILE),
    },
    names=_names,
    licence="MIT (code and weights)",
    prepare=_split_attention,
)
