"""Feature networks of evaluations behind one interface: images in, one vector per image out.

Another network is another class here with the same members. Read next: glotok_ray/evaluation/measure.py
"""

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional

from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.pretrained.feature_networks import EfficientNetLite0, tensors_sha256


class FeatureExtractor(Protocol):
    """A frozen network that turns images of any size into vectors, and what a protocol says of it."""

    name: str
    """As metrics name it."""
    width: int
    """Numbers per image."""
    input_side: int
    """Side to which images are brought for the network, pixels."""
    resizing: str
    """How they are brought to it."""
    weights_sha256: str
    """Digest of the network's tensors."""
    device: torch.device

    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b width"]:
        """One vector per image, whatever else the batch holds."""
        ...


class EfficientNetLite0Features:
    """Pooled features of EfficientNet-Lite0, whose weights ship with a package."""

    name = "EfficientNet-Lite0"
    width = 1280
    resizing = "bilinear with antialiasing"

    def __init__(self, *, input_side: int, device: torch.device) -> None:
        network = EfficientNetLite0()
        self.input_side, self.device = input_side, device
        self.weights_sha256 = tensors_sha256(network.state_dict())
        self._network = network.to(device)

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b 1280"]:
        """The mean of the last map over its positions."""
        resized = functional.interpolate(
            to_model_range(images, self.device),
            size=(self.input_side, self.input_side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return self._network.pooled(resized).float().cpu().numpy()
