"""The vision transformers of the peers: plain pre-LayerNorm blocks, as TiTok, DINOv2 and CLIP have them.

They differ in LayerNorm's epsilon, the activation and LayerScale. Read next: glotok_ray/peers/titok.py
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.rules import require
from glotok_ray.nn.blocks import TransformerBlock
from glotok_ray.peers.released import Table

_MLP_RATIO = 4

CLIP_NAMES: Table = (
    (r"\.transformer\.(?:resblocks\.)?(\d+)\.", r".blocks.\1."),
    (r"\.ln_1\.", r".attention_norm."),
    (r"\.attn\.in_proj_", r".query_key_value."),
    (r"\.attn\.out_proj\.", r".projection."),
    (r"\.ln_2\.", r".mlp_norm."),
    (r"\.mlp\.c_fc\.", r".mlp.0."),
    (r"\.mlp\.c_proj\.", r".mlp.2."),
    (r"\.ln_pre\.", r".norm_in."),
    (r"\.ln_post\.", r".norm_out."),
)
"""Names inside the transformers of CLIP and TiTok, and ours."""
TIMM_NAMES: Table = (
    (r"\.norm1\.", r".attention_norm."),
    (r"\.attn\.qkv\.", r".query_key_value."),
    (r"\.attn\.proj\.", r".projection.0."),
    (r"\.ls1\.", r".projection.1."),
    (r"\.norm2\.", r".mlp_norm."),
    (r"\.mlp\.fc1\.", r".mlp.0."),
    (r"\.mlp\.fc2\.", r".mlp.2."),
    (r"\.ls2\.", r".mlp.3."),
)
"""Names inside the blocks of DINOv2, as timm has them, and ours."""


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Same shape."""
        return tokens * self.gamma


class QuickGELU(nn.Module):
    """OpenAI CLIP's approximation of GELU."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Same shape."""
        return x * torch.sigmoid(1.702 * x)


class BlockKind(NamedTuple):
    """What tells the peers' transformer blocks apart."""

    norm_epsilon: float = 1e-5
    activation: type[nn.Module] = nn.GELU
    layer_scale: bool = False


TITOK = BlockKind()
DINOV2 = BlockKind(norm_epsilon=1e-6, layer_scale=True)
CLIP = BlockKind(activation=QuickGELU)


class VisionBlock(TransformerBlock):
    """Our transformer block with the parts of the given kind; LayerScale follows attention and MLP."""

    def __init__(self, width: int, num_heads: int, kind: BlockKind) -> None:
        super().__init__(width, num_heads, _MLP_RATIO)
        self.attention_norm = nn.LayerNorm(width, eps=kind.norm_epsilon)
        self.mlp_norm = nn.LayerNorm(width, eps=kind.norm_epsilon)
        self.mlp[1] = kind.activation()
        if kind.layer_scale:
            self.projection = nn.Sequential(self.projection, LayerScale(width))
            self.mlp.append(LayerScale(width))


def blocks(depth: int, width: int, num_heads: int, kind: BlockKind) -> nn.Sequential:
    """A stack of blocks, to be applied one after the other."""
    return nn.Sequential(*(VisionBlock(width, num_heads, kind) for _ in range(depth)))


class PatchEmbedding(nn.Module):
    """Squares of pixels to tokens in row-major order."""

    def __init__(self, width: int, patch_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b t c"]:
        """One token per square."""
        return self.conv(images).flatten(2).transpose(1, 2)


def require_patches(image_size: int, patch_size: int) -> None:
    """Raise ValueError for an image that is not cut into whole patches."""
    sound = image_size >= 1 and image_size % patch_size == 0
    require(sound, "image_size", image_size, f"must be a multiple of {patch_size}")


def require_heads(width: int, num_heads: int) -> None:
    """Raise ValueError for heads that do not share a width evenly."""
    sound = num_heads >= 1 and width % num_heads == 0
    require(sound, "num_heads", num_heads, f"must divide width = {width}")
