"""Trunk G: the convolutional encoder and decoder of MaskGIT's tokenizer, which MaskBit, VQGAN+ and TiTok inherited.

It has no attention, and no skip in blocks that change the channels. Read next: glotok_ray/peers/maskbit.py
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.rules import require
from glotok_ray.nn.autoencoder import Level
from glotok_ray.nn.blocks import Downsample, Upsample, group_norm
from glotok_ray.peers.released import Table

_GROUPS = 32
_NUM_BLOCKS = 2
_MULTIPLIERS = (1, 1, 2, 2, 4)
"""Of the channels, per level, from the image's resolution down."""
_LAST = len(_MULTIPLIERS) - 1

DOWNSAMPLE_FACTOR = 2**_LAST
"""Pixels per latent along one side."""

Pooling = Literal["convolution", "average"]


class MaskGITBlock(nn.Module):
    """Two 3x3 convolutions without biases, each after GroupNorm and SiLU.

    Where channels change there is no skip: the 1x1 convolution, which looks like one, acts on the block's own result
    and is added to it. Published weights are trained like that.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, _GROUPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels, _GROUPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = in_channels != out_channels
        self.mixing = nn.Conv2d(out_channels, out_channels, 1, bias=False) if changes else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Same height and width, `out_channels` channels."""
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return y + (x if self.mixing is None else self.mixing(y))


class MaskGITEncoder(nn.Module):
    """Image to latents at a sixteenth of its side; `pooling` halves a map by a strided convolution (MaskBit, VQGAN+)
    or by the mean of 2x2 values (MaskGIT).
    """

    def __init__(self, latent_channels: int, pooling: Pooling, base_channels: int) -> None:
        super().__init__()
        widths = _widths(base_channels)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.levels = nn.ModuleList(
            _level(widths[max(index - 1, 0)], width, _halving(index, width, pooling))
            for index, width in enumerate(widths)
        )
        self.middle = _middle(widths[-1])
        self.norm_out = group_norm(widths[-1], _GROUPS)
        self.conv_out = nn.Conv2d(widths[-1], latent_channels, 1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Images are in [0, 1], their sides multiples of 16."""
        x = self.conv_in(images)
        for level in self.levels:
            x = level(x)
        return self.conv_out(self.norm_out(self.middle(x)))


class MaskGITDecoder(nn.Module):
    """Latents to image; level 0 has the lowest resolution."""

    def __init__(self, latent_channels: int, base_channels: int) -> None:
        super().__init__()
        widths = _widths(base_channels)[::-1]
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.middle = _middle(widths[0])
        self.levels = nn.ModuleList(
            _level(
                widths[max(index - 1, 0)],
                width,
                Upsample(width) if index < _LAST else nn.Identity(),
            )
            for index, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[-1], _GROUPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of about [0, 1], not clamped."""
        x = self.middle(self.conv_in(latents))
        for level in self.levels:
            x = level(x)
        return self.conv_out(self.norm_out(x))


def _level(entering: int, width: int, resample: nn.Module) -> Level:
    blocks: list[nn.Module] = [
        MaskGITBlock(entering if index == 0 else width, width) for index in range(_NUM_BLOCKS)
    ]
    return Level(blocks, [], resample)


def _widths(base_channels: int) -> tuple[int, ...]:
    return tuple(base_channels * multiplier for multiplier in _MULTIPLIERS)


def _middle(width: int) -> nn.Sequential:
    return nn.Sequential(*(MaskGITBlock(width, width) for _ in range(_NUM_BLOCKS)))


def _halving(index: int, width: int, pooling: Pooling) -> nn.Module:
    if index == _LAST:
        return nn.Identity()
    return Downsample(width) if pooling == "convolution" else nn.AvgPool2d(2)


def check_base_channels(base_channels: int) -> None:
    """Raise ValueError unless the groups of the norms divide the channels."""
    require(
        base_channels >= 1 and base_channels % _GROUPS == 0,
        "base_channels",
        base_channels,
        f"must be a multiple of {_GROUPS}",
    )


def encoder_names() -> Table:
    """Names of `MaskGITEncoder` in the files of MaskBit and MaskGIT, whose prefix is "encoder", and ours."""
    return (
        (r"^encoder\.down\.(\d+)\.res_blocks\.", r"encoder.levels.\1.blocks."),
        (r"^encoder\.down\.(\d+)\.down_conv\.", r"encoder.levels.\1.resample.conv."),
        (r"^encoder\.mid\.res_blocks\.", r"encoder.middle."),
        (r"^(encoder\..*)\.nin_shortcut\.", r"\1.mixing."),
    )


def decoder_names(
    *, full_resolution_first: bool, prefix: str = "decoder", mid: str = r"mid\.res_blocks"
) -> Table:
    """Names of `MaskGITDecoder` in files, and ours. `full_resolution_first`: the file counts levels from the image's
    resolution; `mid` is the file's name of the middle blocks.
    """
    rows = []
    for level in range(_LAST + 1):
        ours = f"{prefix}.levels.{_LAST - level if full_resolution_first else level}"
        rows += [
            (rf"^{prefix}\.up\.{level}\.(?:res_blocks|block)\.", f"{ours}.blocks."),
            (rf"^{prefix}\.up\.{level}\.upsample_conv\.", f"{ours}.resample.conv."),
        ]
    rows += [
        (rf"^{prefix}\.{mid}\.", f"{prefix}.middle."),
        (rf"^({prefix}\..*)\.nin_shortcut\.", r"\1.mixing."),
    ]
    return tuple(rows)
