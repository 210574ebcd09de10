"""Frozen networks that give one vector per image: what FQGAN's contrast heads learn to predict (the local baseline).

GloTok needs none of them while it trains (paper appendix B.2). Read next: glotok_ray/losses/contrastive.py
"""

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from glotok_ray.config.teacher import FeatureNetworkConfig
from glotok_ray.config.tokenizer import ContrastConfig
from glotok_ray.nn.frozen import FrozenNetwork
from glotok_ray.pretrained.feature_networks import EfficientNetLite0
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher.features import channels, load_transformer
from glotok_ray.teacher.networks import (
    EMBEDDED,
    NETWORKS,
    check_network,
    file_to_bring,
    stored_tensors,
    timm_facts,
    weights_source,
)

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

_INPUT_SIZE = 224
# Channels of the embedded network's last block.
_POOLED_WIDTH = 320


class ContrastNetworkConfig(FeatureNetworkConfig):
    """The network of a contrast head, whose fields the user writes in the section "contrast"."""

    __slots__ = ()

    def full_name(self, name: str) -> str:
        """A field as the user writes it, for messages."""
        return "contrast.network" if name == "name" else f"contrast.{name}"


def network_config(contrast: ContrastConfig) -> FeatureNetworkConfig:
    """The network to load: its last block, of CLIP without the LayerNorm after it (FQGAN's choices)."""
    is_clip = contrast.network in NETWORKS and NETWORKS[contrast.network].is_clip
    return ContrastNetworkConfig(
        name=contrast.network,
        weights_path=contrast.weights_path,
        weights_sha256=contrast.weights_sha256,
        final_norm=not is_clip,
        input_size=_INPUT_SIZE,
    )


def check_image_network(contrast: ContrastConfig) -> None:
    """Raise ValueError for an unknown network or a wrong width, ArtefactError for a wrong weights file."""
    config = network_config(contrast)
    check_network(config)
    width = _POOLED_WIDTH if contrast.network == EMBEDDED else channels(config)
    if contrast.width != width:
        raise ValueError(
            f"contrast.width = {contrast.width}: {contrast.network} gives vectors of {width}; set it to {width}"
        )


def resampled_as_dinov2(positions: Float[Tensor, "1 n c"], side: int) -> Float[Tensor, "1 m c"]:
    """A class token's position and a square table of others, the latter resampled to `side` x `side` as DINOv2's own
    code and the Hugging Face class that FQGAN takes do: bicubic, no antialiasing, at the scale (side + 0.1) / old side.

    The teacher's features take timm's resampling, with antialiasing and at the exact scale. Raises ValueError for a
    table of another form.
    """
    if not _is_square_table(positions):
        raise ValueError(
            f"positions of shape {tuple(positions.shape)}: must be (1, 1 + side * side, channels), a class token's and "
            "a square table"
        )
    own, table = positions[:, :1].float(), positions[:, 1:].float()
    old = math.isqrt(table.shape[1])
    if old == side:
        return positions
    grid = table.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    # The scale, and not the size, decides at which places the table is read.
    scale = (side + 0.1) / old
    resampled = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([own, resampled.flatten(2).transpose(1, 2)], dim=1)


def _is_square_table(positions: Tensor) -> bool:
    if positions.ndim != 3 or len(positions) != 1 or not positions.is_floating_point():
        return False
    others = positions.shape[1] - 1
    return others > 0 and math.isqrt(others) ** 2 == others


class ClassTokens(FrozenNetwork):
    """The class token of a vision transformer's last block, with or without the final LayerNorm; takes a transformer
    with its weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, transformer: "VisionTransformer", config: FeatureNetworkConfig) -> None:
        super().__init__()
        facts = timm_facts(config)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(facts[name]).view(3, 1, 1))
        last = len(transformer.blocks) - 1
        transformer.prune_intermediate_layers(
            [last], prune_norm=not config.final_norm, prune_head=True
        )
        self.transformer = transformer
        self.freeze()

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c"]:
        """Vectors of images in [-1, 1] of any size."""
        # Nearest neighbours, as FQGAN's interpolation does by default.
        pixels = (F.interpolate(images.to(self.mean.dtype), size=(_INPUT_SIZE,) * 2) + 1) / 2
        return self.transformer.forward_features((pixels - self.mean) / self.std)[:, 0]


class PooledVectors(FrozenNetwork):
    """The embedded network's last block, averaged over positions; a narrow vector keeps the head small on a laptop."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0()
        self.freeze()

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 320"]:
        """Vectors of images in [-1, 1] of any size."""
        resized = F.interpolate(images, size=(_INPUT_SIZE,) * 2)
        return self.network.features(resized)[-1].mean(dim=(2, 3))


def build_image_network(contrast: ContrastConfig) -> FrozenNetwork:
    """The network with its weights, on the CPU in fp32; raises what `check_image_network` raises."""
    check_image_network(contrast)
    if contrast.network == EMBEDDED:
        return PooledVectors()
    config = network_config(contrast)
    stored = stored_tensors(config)
    if NETWORKS[contrast.network].is_dinov2 and "pos_embed" in stored:
        side = _INPUT_SIZE // NETWORKS[contrast.network].side
        try:
            stored["pos_embed"] = resampled_as_dinov2(stored["pos_embed"], side)
        except ValueError as error:
            raise ArtefactError(
                f"{weights_source(config)}: pos_embed: {error}; {file_to_bring(config)}"
            ) from error
    return ClassTokens(load_transformer(config, stored), config)
