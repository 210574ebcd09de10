"""The building blocks of encoder, decoder, adapters and residual predictors.

The convolutional ones compute what VQGAN's do (Esser et al. 2021), so that its published weights can be imported.
Read next: glotok_ray/nn/autoencoder.py
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.devices import device_type
from glotok_ray.nn.group_norm import GroupNorm


def group_norm(channels: int, groups: int, *, silu: bool = True) -> GroupNorm:
    """GroupNorm with VQGAN's epsilon, 1e-6, and SiLU after it."""
    return GroupNorm(channels, groups, eps=1e-6, silu=silu)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU; the skip is a 1x1 convolution where
    channels change.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        changes = in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Same height and width, `out_channels` channels."""
        y = self.conv1(self.norm1(x))
        y = self.conv2(self.dropout(self.norm2(y)))
        return self.shortcut(x) + y


class SpatialAttention(nn.Module):
    """Single-head attention over all positions of the map, with a skip."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups, silu=False)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape; scores are scaled by c ** -0.5."""
        normed = self.norm(x)
        query, key, value = (
            _as_head(layer(normed)) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.projection(mixed.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]))


def _as_head(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 t c"]:
    return x.flatten(2).transpose(1, 2).unsqueeze(1)


class Downsample(nn.Module):
    """Halve the side by a strided 3x3 convolution, padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Half the height and width."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the side by nearest neighbours, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Twice the height and width."""
        # Autocast would copy in fp32 what the convolution reads in half.
        with without_autocast(x.device):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x)


class FeatureHead(nn.Module):
    """GroupNorm, SiLU and a 3x3 convolution: the tail of VQGAN's encoder."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(in_channels, groups)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Same height and width, `out_channels` channels."""
        return self.conv(self.norm(x))


class TransformerBlock(nn.Module):
    """Pre-LayerNorm self-attention over all tokens, then an MLP with exact GELU; biases everywhere."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width)
        )
        # As torch's MultiheadAttention starts, which the peers use.
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.projection.bias)

    def forward(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Same shape."""
        heads = self.query_key_value(self.attention_norm(tokens))
        heads = heads.unflatten(2, (3, self.num_heads, -1)).transpose(1, 3)
        query, key, value = heads.unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.projection(mixed)
        return tokens + self.mlp(self.mlp_norm(tokens))


def position_table(num_tokens: int, width: int) -> nn.Parameter:
    """Learned absolute positions, drawn from a normal distribution of variance 1 / width."""
    return nn.Parameter(torch.randn(num_tokens, width) * width**-0.5)


def positions_on_grid(
    table: Float[Tensor, "t c"], height: int, width: int
) -> Float[Tensor, "t2 c"]:
    """The positions of a square grid as they were learned, or resampled (bicubic) for a grid of another shape."""
    side = math.isqrt(len(table))
    if (height, width) == (side, side):
        return table
    grid = table.T.float().unflatten(1, (side, side)).unsqueeze(0)
    resampled = F.interpolate(
        grid, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resampled.squeeze(0).flatten(1).T.to(table.dtype)


def to_tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t c"]:
    """The positions of a map in row-major order."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Float[Tensor, "b t c"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `to_tokens`."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep the dtypes as they are; the meta device knows no autocast but that of a GPU for which it stands."""
    kind = device_type(device)
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def empty_keys_and_values(shape: tuple[int, ...], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Room for what attention remembers, on the device of `weight` and in the dtype of attention, autocast included."""
    device = weight.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
    return weight.new_empty(shape, dtype=dtype), weight.new_empty(shape, dtype=dtype)
