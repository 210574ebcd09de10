"""RQ-VAE (Lee et al. 2022): VQGAN's trunk down to 8 x 8 positions, each the sum of several rows of one codebook.

Read next: glotok_ray/peers/var.py
"""

from collections.abc import Mapping
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


def _six_levels() -> AutoencoderConfig:
    return AutoencoderConfig(channel_multipliers=(1, 1, 2, 2, 4, 4))


@dataclass(frozen=True, kw_only=True, slots=True)
class RQVAEConfig:
    """The tokenizer of its ImageNet models."""

    autoencoder: AutoencoderConfig = field(default_factory=_six_levels)
    """Trunk."""
    num_codes: int = 16384
    """Rows of the codebook, as wide as the trunk's latent."""
    depth: int = 4
    """Codes per position, each of what those before it left over."""

    def __post_init__(self) -> None:
        require_positive("model", self, ("num_codes", "depth"))

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return self.autoencoder.image_size


class RQVAETokenizer(TrunkTokenizer):
    """Codes (b, h, w, depth)."""

    config: RQVAEConfig

    def __init__(self, config: RQVAEConfig) -> None:
        width = config.autoencoder.latent_channels
        super().__init__(config, code_width=width)
        self.codebook = nn.Parameter(torch.randn(config.num_codes, width))

    @property
    def rate(self) -> Rate:
        """One square grid with the depth last."""
        side = self.config.autoencoder.grid_size
        return Rate((Grid((side, side, self.config.depth), self.config.num_codes),))

    def find(self, z: Float[Tensor, "b d h w"]) -> Int[Tensor, "b h w k"]:
        """The nearest codes of what is left over, one after the other."""
        rest, found = z, []
        for _ in range(self.config.depth):
            found.append(nearest_on_map(rest, self.codebook))
            rest = rest - rows_on_map(found[-1], self.codebook)
        return torch.stack(found, dim=-1)

    def latents(self, codes: Codes) -> Float[Tensor, "b d h w"]:
        """The sum of the rows."""
        assert isinstance(codes, Tensor)
        rows = [rows_on_map(each, self.codebook) for each in codes.unbind(-1)]
        return torch.stack(rows).sum(dim=0)


_CODEBOOK = "quantizer.codebooks.{}.weight"


def _one_codebook(tensors: Mapping[str, Tensor], config: RQVAEConfig) -> dict[str, Tensor]:
    """A file holds the shared codebook once per depth, each with a row for padding at its end, which is no code."""
    found = dict(tensors)
    first = found.get(_CODEBOOK.format(0))
    if first is None or first.ndim != 2 or len(first) != config.num_codes + 1:
        return found
    for place in range(1, config.depth):
        copy = found.get(_CODEBOOK.format(place))
        if copy is None:
            continue
        if not torch.equal(copy, first):
            raise ValueError(
                f"{_CODEBOOK.format(place)} differs from {_CODEBOOK.format(0)}: must be the same, since all depths "
                "share one codebook; bring the released file"
            )
        del found[_CODEBOOK.format(place)]
    found[_CODEBOOK.format(0)] = first[:-1]
    return found


def _names(config: RQVAEConfig) -> Table:
    return (
        (r"\.(cluster_size_ema|embed_ema)$", None),
        *taming_names(len(config.autoencoder.channel_multipliers)),
        (r"^quantizer\.codebooks\.0\.weight$", r"codebook"),
    )


SYSTEM = System(
    tokenizer=RQVAETokenizer,
    config=RQVAEConfig,
    released={
        "rq_vae": Released(
            RQVAEConfig(),
            "RQ-VAE inside Kakao Brain's imagenet_1.4B_rqvae_50e.tar.gz",
            3.20,
            None,
            "GloTok's Table 1, presumably the 50-epoch model of the paper; not in the repository",
        )
    },
    names=_names,
    licence="weights CC-BY-NC-SA-4.0: non-commercial, share alike (code Apache-2.0)",
    prepare=_one_codebook,
    crop_protocol="bilinear",
    feature_pixels="unrounded",
)
