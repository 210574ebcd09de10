"""Frozen networks whose spatial features the teacher clusters (paper section 4.1: DINOv2).

EfficientNet-Lite0 ships with the package; the vision transformers are timm's. Positions are resampled to `input_size`
by timm, bicubic with antialiasing.
Read next: glotok_ray/teacher/preparation.py
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.config.teacher import FeatureNetworkConfig
from glotok_ray.nn.frozen import FrozenNetwork
from glotok_ray.pretrained.feature_networks import EfficientNetLite0
from glotok_ray.teacher.networks import (
    EMBEDDED,
    NETWORKS,
    check_network,
    fitting_tensors,
    stored_tensors,
    timm_facts,
    transformer_without_weights,
    weights_digest,
)

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class FeatureNetwork(Protocol):
    """What the teacher needs of a network."""

    def spatial(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b channels h w"]:
        """Feature maps of images in [-1, 1]."""
        ...


class PatchFeatures(FrozenNetwork):
    """Patch tokens of one block of a vision transformer, as a map; later blocks are dropped.

    Takes a transformer with its weights; class and register tokens never leave it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, transformer: "VisionTransformer", config: FeatureNetworkConfig) -> None:
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(timm_facts(config)[name]).view(3, 1, 1))
        transformer.prune_intermediate_layers(
            [len(transformer.blocks) + config.block],
            prune_norm=not config.final_norm,
            prune_head=not config.projected,
        )
        self.transformer = transformer
        self.freeze()

    def spatial(self, images: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b channels h w"]:
        """Feature maps of images in [-1, 1] of `input_size` pixels."""
        network = self.transformer
        pixels = (images.to(self.mean.dtype) + 1) / 2
        tokens = network.forward_features((pixels - self.mean) / self.std)
        # The head is CLIP's projection, or does nothing.
        patches = network.head(tokens[:, network.num_prefix_tokens :])
        return patches.transpose(1, 2).unflatten(2, network.patch_embed.grid_size)


def load_transformer(
    config: FeatureNetworkConfig, stored: dict[str, Tensor] | None = None
) -> "VisionTransformer":
    """timm's whole transformer with the weights that `config` names, or with those of `stored`, on the CPU."""
    transformer = transformer_without_weights(config)
    stored = stored_tensors(config) if stored is None else stored
    tensors = fitting_tensors(stored, transformer, config)
    transformer.load_state_dict(tensors, assign=True)
    return transformer


def build_feature_network(config: FeatureNetworkConfig, device: torch.device) -> FeatureNetwork:
    """The frozen network of `config` on `device`, in fp32 and evaluation mode.

    Raises what `check_network` raises, and ArtefactError when the weights cannot be had or do not fit.
    """
    check_network(config)
    if config.name == EMBEDDED:
        return EfficientNetLite0().to(device)
    return PatchFeatures(load_transformer(config), config).to(device)


def grid_side(config: FeatureNetworkConfig) -> int:
    """Feature vectors along one side of an image, without reading weights; expects a checked config."""
    # EfficientNet's padded strides round up; transformers divide evenly.
    return -(-config.input_size // NETWORKS[config.name].side)


def channels(config: FeatureNetworkConfig) -> int:
    """Width of a feature vector, without reading weights; expects a checked config."""
    network = NETWORKS[config.name]
    return network.projected_width if config.projected else network.width


def feature_facts(config: FeatureNetworkConfig) -> dict[str, Any]:
    """Where features come from, for JSON; reads all weights once, for their digest."""
    facts = {
        "network": config.name,
        "input_size": config.input_size,
        "weights_sha256": weights_digest(config),
    }
    if config.name == EMBEDDED:
        return facts
    return facts | {
        "timm_architecture": NETWORKS[config.name].architecture,
        "timm_version": version("timm"),
        "block": config.block,
        "final_norm": config.final_norm,
        "projected": config.projected,
    }


def draw_vectors(
    features: Float[Tensor, "channels h w"], number: int, generator: np.random.Generator
) -> Float[Tensor, "vectors channels"]:
    """`number` different spatial vectors of one image, in the order drawn; all of them where the
    map has fewer.
    """
    vectors = features.flatten(1).T
    chosen = generator.permutation(len(vectors))[:number]
    return vectors[torch.from_numpy(chosen).to(vectors.device)]
