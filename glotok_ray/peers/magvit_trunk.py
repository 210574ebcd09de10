"""The trunk of Open-MAGVIT2: residual blocks without biases and without attention; the decoder scales and shifts its
maps by the statistics of the codes.

Read next: glotok_ray/nn/blocks.py
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.config.rules import require, require_positive
from glotok_ray.nn.blocks import group_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class MagvitConfig:
    """One of Open-MAGVIT2's tokenizers."""

    image_size: int = 256
    """Side of the square images, pixels."""
    base_channels: int = 128
    """Channels after the first convolution."""
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """One factor per level, from the highest resolution; every level but the last halves the side."""
    num_res_blocks: int = 4
    """Residual blocks per level, and between encoder and decoder on each side."""
    num_bits: int = 18
    """Bits per code: channels between encoder and decoder."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""

    def __post_init__(self) -> None:
        names = ("image_size", "base_channels", "num_res_blocks", "num_bits", "norm_groups")
        require_positive("model", self, names)
        require(
            bool(self.channel_multipliers) and min(self.channel_multipliers) >= 1,
            "model.channel_multipliers",
            self.channel_multipliers,
            "must hold a factor of at least 1 for each of one or more levels",
        )
        for width in self.widths:
            require(
                width % self.norm_groups == 0,
                "model.base_channels",
                self.base_channels,
                f"times every multiplier must be a multiple of norm_groups = {self.norm_groups}",
            )
        require(
            self.image_size % self.downsample_factor == 0,
            "model.image_size",
            self.image_size,
            f"must be a multiple of {self.downsample_factor}",
        )

    @property
    def downsample_factor(self) -> int:
        """Pixels per position along one side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def widths(self) -> list[int]:
        """Channels per level, from the highest resolution."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]


class PlainBlock(nn.Module):
    """Two 3x3 convolutions without bias, each after GroupNorm and SiLU; the skip is a 1x1 convolution without bias
    where channels change.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = in_channels != out_channels
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, bias=False) if changes else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Same height and width, `out_channels` channels."""
        return self.shortcut(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class AdaptiveNorm(nn.Module):
    """GroupNorm without weights of its own; its scale comes from the codes' spatial deviation, its shift from their
    mean.
    """

    def __init__(self, channels: int, code_width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.gamma = nn.Linear(code_width, channels)
        self.beta = nn.Linear(code_width, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], codes: Float[Tensor, "b d h2 w2"]
    ) -> Float[Tensor, "b c h w"]:
        """Same shape; of codes at one position alone the result is NaN, since one value has no deviation."""
        positions = codes.flatten(2)
        deviation = (positions.var(dim=2) + 1e-6).sqrt()
        scale, shift = self.gamma(deviation), self.beta(positions.mean(dim=2))
        normed = F.group_norm(x, self.groups, eps=1e-6)
        return scale[..., None, None] * normed + shift[..., None, None]


class DepthToSpace(nn.Module):
    """Double the side: a convolution to four times the channels, whose quarters become the four pixels of a square."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Twice the height and width. torch's pixel_shuffle would take four neighbouring channels instead."""
        quarters = self.conv(x).unflatten(1, (2, 2, -1))
        return quarters.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def _blocks(in_channels: int, out_channels: int, config: MagvitConfig) -> nn.ModuleList:
    return nn.ModuleList(
        PlainBlock(out_channels if index else in_channels, out_channels, config.norm_groups)
        for index in range(config.num_res_blocks)
    )


class EncoderLevel(nn.Module):
    """Residual blocks, then half the side, but for the last level."""

    def __init__(
        self, in_channels: int, out_channels: int, config: MagvitConfig, *, last: bool
    ) -> None:
        super().__init__()
        self.blocks = _blocks(in_channels, out_channels, config)
        # Padded on all four sides, unlike VQGAN's.
        self.resample = (
            nn.Identity() if last else nn.Conv2d(out_channels, out_channels, 3, 2, padding=1)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """All of it in order."""
        for block in self.blocks:
            x = block(x)
        return self.resample(x)


class DecoderLevel(nn.Module):
    """Adaptive norm, residual blocks, then twice the side, but for the last level."""

    def __init__(
        self, in_channels: int, out_channels: int, config: MagvitConfig, *, last: bool
    ) -> None:
        super().__init__()
        self.adaptive = AdaptiveNorm(in_channels, config.num_bits, config.norm_groups)
        self.blocks = _blocks(in_channels, out_channels, config)
        self.resample = nn.Identity() if last else DepthToSpace(out_channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], codes: Float[Tensor, "b d h2 w2"]
    ) -> Float[Tensor, "b c2 h3 w3"]:
        """All of it in order; `codes` are what entered the decoder."""
        x = self.adaptive(x, codes)
        for block in self.blocks:
            x = block(x)
        return self.resample(x)


class MagvitEncoder(nn.Module):
    """Images in [-1, 1] to a map of `num_bits` channels."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(3, config.base_channels, 3, padding=1, bias=False)
        entering = [config.base_channels, *widths[:-1]]
        self.levels = nn.ModuleList(
            EncoderLevel(*channels, config, last=index == last)
            for index, channels in enumerate(zip(entering, widths, strict=True))
        )
        self.middle = _blocks(widths[-1], widths[-1], config)
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], config.num_bits, 1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """The map whose signs are the codes."""
        x = self.conv_in(images)
        for stage in (*self.levels, *self.middle):
            x = stage(x)
        return self.conv_out(self.norm_out(x))


class MagvitDecoder(nn.Module):
    """A map of +1 and -1 to images, about [-1, 1]; not clamped."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.num_bits, widths[0], 3, padding=1)
        self.middle = _blocks(widths[0], widths[0], config)
        entering = [widths[0], *widths[:-1]]
        self.levels = nn.ModuleList(
            DecoderLevel(*channels, config, last=index == last)
            for index, channels in enumerate(zip(entering, widths, strict=True))
        )
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, codes: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        """`downsample_factor` times the height and width."""
        x = self.conv_in(codes)
        for block in self.middle:
            x = block(x)
        for level in self.levels:
            x = level(x, codes)
        return self.conv_out(self.norm_out(x))
