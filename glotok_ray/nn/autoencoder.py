"""VQGAN's convolutional encoder and decoder (paper section 4.1), which share nothing but their shapes.

At the defaults they are the same functions as in taming-transformers f16 and LlamaGen VQ-16; only the names differ.
Read next: glotok_ray/nn/adapter.py
"""

from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.nn.blocks import (
    Downsample,
    FeatureHead,
    ResidualBlock,
    SpatialAttention,
    Upsample,
    group_norm,
)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where asked, then an optional
    change of the side.
    """

    def __init__(
        self, blocks: list[nn.Module], attentions: list[nn.Module], resample: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Apply all of it in order."""
        for index, block in enumerate(self.blocks):
            x = block(x)
            if len(self.attentions):
                x = self.attentions[index](x)
        return self.resample(x)


def _level(
    config: AutoencoderConfig,
    channels: tuple[int, int],
    *,
    num_blocks: int,
    attend: bool,
    resample: nn.Module,
) -> Level:
    entering, width = channels
    groups = config.norm_groups
    blocks: list[nn.Module] = [
        ResidualBlock(entering if index == 0 else width, width, groups, config.dropout)
        for index in range(num_blocks)
    ]
    attentions: list[nn.Module] = [
        SpatialAttention(width, groups) for _ in range(num_blocks if attend else 0)
    ]
    return Level(blocks, attentions, resample)


def _middle(config: AutoencoderConfig) -> nn.Sequential:
    channels, groups = config.top_channels, config.norm_groups
    return nn.Sequential(
        ResidualBlock(channels, channels, groups, config.dropout),
        SpatialAttention(channels, groups),
        ResidualBlock(channels, channels, groups, config.dropout),
    )


class PixelEncoder(nn.Module):
    """Image to feature map; `features` is the trunk that the adapters split and `head` the
    encoder's own tail.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.base_channels * multiplier for multiplier in config.channel_multipliers]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, config.base_channels, 3, padding=1)
        self.levels = nn.ModuleList(
            _level(
                config,
                (widths[index - 1] if index else config.base_channels, width),
                num_blocks=config.num_res_blocks,
                attend=index == last,
                resample=nn.Identity() if index == last else Downsample(width),
            )
            for index, width in enumerate(widths)
        )
        self.middle = _middle(config)
        self.head = FeatureHead(config.top_channels, config.latent_channels, config.norm_groups)

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """The shared map after the middle stack, `top_channels` wide; images are in [-1, 1]."""
        x = self.conv_in(images)
        for level in self.levels:
            x = level(x)
        return self.middle(x)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """VQGAN's whole encoder: the trunk and its tail, `latent_channels` wide."""
        return self.head(self.features(images))


class PixelDecoder(nn.Module):
    """Feature map to image, with no squashing at the end: values may leave [-1, 1]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [
            config.base_channels * multiplier for multiplier in reversed(config.channel_multipliers)
        ]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, config.top_channels, 3, padding=1)
        self.middle = _middle(config)
        self.levels = nn.ModuleList(
            _level(
                config,
                (widths[max(index - 1, 0)], width),
                num_blocks=config.num_res_blocks + 1,
                attend=index == 0,
                resample=nn.Identity() if index == last else Upsample(width),
            )
            for index, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def activations(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 H W"]:
        """What enters the last convolution; the adaptive adversarial weight needs it."""
        x = self.middle(self.conv_in(latents))
        for level in self.levels:
            x = level(x)
        return self.norm_out(x)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """VQGAN's whole decoder; latents are `latent_channels` wide."""
        return self.conv_out(self.activations(latents))
