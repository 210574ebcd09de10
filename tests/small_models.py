"""The tiny models of the tests, written once; a test passes what its assertions need to be otherwise."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from glotok_ray.config import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    ResidualConfig,
    TokenizerConfig,
)

VISUAL = CodebookConfig(name="visual", size=32, width=4)
SEMANTIC = CodebookConfig(name="semantic", size=16, width=4)
NO_RESIDUAL = ResidualConfig(enabled=False)


def tiny_tokenizer(
    *codebooks: CodebookConfig,
    image_size: int = 16,
    channel_multipliers: tuple[int, ...] = (1, 1, 1),
    latent_channels: int = 8,
    adapter_depth: int = 1,
    residual: ResidualConfig | None = None,
) -> TokenizerConfig:
    """The smallest tokenizer that has every part: 8 channels, by default two codebooks and codes of 4 x 4."""
    return TokenizerConfig(
        autoencoder=AutoencoderConfig(
            image_size=image_size,
            base_channels=8,
            channel_multipliers=channel_multipliers,
            num_res_blocks=1,
            latent_channels=latent_channels,
            norm_groups=4,
        ),
        adapter=AdapterConfig(depth=adapter_depth, num_heads=2),
        codebooks=codebooks or (VISUAL, SEMANTIC),
        residual=residual or ResidualConfig(width=16, num_heads=2),
    )


class ImageTerms(NamedTuple):
    """Raw terms that are functions of the reconstruction."""

    reconstruction: Float[Tensor, ""]
    perceptual: Float[Tensor, ""]
    adversarial: Float[Tensor, ""]
    adversarial_scale: Float[Tensor, ""]
    """The adaptive weight; 1 where it is off, 0 before the discriminator's start."""
