"""Feature networks of evaluations behind one interface: 8-bit images in, named vectors of each image out.

Another network is another class here with the same members. Read next: glotok_ray/evaluation/measure.py
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch.nn import functional

from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.devices import full_precision
from glotok_ray.pretrained.dinov2 import SIDE, DINOv2, load_dinov2
from glotok_ray.pretrained.feature_networks import EfficientNetLite0, tensors_sha256
from glotok_ray.pretrained.inception import load_inception

POOLED = "pooled"
"""The output that every extractor has: one vector per image, of which Frechet distances are taken."""
LOGITS = "logits"
"""Class scores, for the Inception Score."""
SPATIAL = "spatial"
"""Features of single positions, for sFID."""

Images = UInt8[np.ndarray, "b h w 3"]
Features = dict[str, Float[np.ndarray, "b width"]]


class FeatureExtractor(Protocol):
    """A frozen network that turns images of any size into vectors, and what a protocol says of it."""

    name: str
    """As metrics name it."""
    key: str
    """Short name, for names of arrays and files."""
    outputs: Mapping[str, int]
    """Names of what it gives, and the width of each; POOLED is among them."""
    input_contract: str
    """How images reach the network: resizing and range of values, in words."""
    weights_sha256: str
    """sha256 of the file of its weights; of the tensors themselves where they ship with a package."""
    device: torch.device

    def __call__(self, images: Images) -> Features:
        """Every output of every image in fp32, whatever else the batch holds; raises ValueError for images that are not
        uint8 of shape (b, h, w, 3).
        """
        ...


class EfficientNetLite0Features:
    """Pooled features of EfficientNet-Lite0, whose weights ship with a package, in full fp32."""

    name = "EfficientNet-Lite0"
    key = "effnet"
    outputs: Mapping[str, int] = {POOLED: 1280}

    def __init__(self, *, input_side: int, device: torch.device) -> None:
        network = EfficientNetLite0()
        self.input_side, self.device = input_side, device
        self.input_contract = (
            f"images resized to {input_side} x {input_side}, bilinear with antialiasing, in [-1, 1]"
        )
        self.weights_sha256 = tensors_sha256(network.state_dict())
        self._network = network.fused().to(device)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Features:
        """The mean of the last map over its positions."""
        _check_images(images)
        resized = functional.interpolate(
            to_model_range(images, self.device),
            size=(self.input_side, self.input_side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        with full_precision():
            return {POOLED: self._network.pooled(resized).float().cpu().numpy()}


class _FromFile:
    """An extractor whose weights a file brings."""

    key: str
    _read: Callable[..., Any]
    """Takes a path and the setting's name; returns `network` and `weights_sha256`."""

    def __init__(self, network: Any, *, weights_sha256: str, device: torch.device) -> None:
        self.weights_sha256, self.device = weights_sha256, device
        self._network = network.to(device)

    @classmethod
    def load(cls, path: str, *, device: torch.device, field: str = "") -> Self:
        """With the weights of the file that the setting `field` names, KEY_path unless it is given; an empty path
        downloads the published ones, where the network has such.

        Raises ArtefactError for what the reader of the file refuses.
        """
        loaded = cls._read(path, field=field or f"{cls.key}_path")
        return cls(loaded.network, weights_sha256=loaded.weights_sha256, device=device)


class InceptionFeatures(_FromFile):
    """Features and class scores of FID's Inception-v3, all of one forward pass in full fp32."""

    name = "Inception-v3"
    key = "inception"
    outputs: Mapping[str, int] = {POOLED: 2048, LOGITS: 1008, SPATIAL: 2023}
    input_contract = "images resized to 299 x 299, bilinear as TensorFlow 1 does it (no antialiasing), in [-1, 1)"

    _read = staticmethod(load_inception)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Features:
        """Pooled features, class scores without bias, and ADM's spatial features."""
        _check_images(images)
        pixels = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).contiguous()
        with full_precision():
            found = self._network(pixels)
        return {
            POOLED: found.pooled.cpu().numpy(),
            LOGITS: found.logits.cpu().numpy(),
            SPATIAL: found.spatial.cpu().numpy(),
        }


class DINOv2Features(_FromFile):
    """The class token of DINOv2's ViT-L/14 as dgm-eval takes it, in full fp32."""

    name = "DINOv2 ViT-L/14"
    key = "dinov2"
    input_contract = f"images resized to {SIDE} x {SIDE} by PIL, bicubic on 8 bits, ImageNet's mean and deviation"
    _read = staticmethod(load_dinov2)

    def __init__(self, network: DINOv2, *, weights_sha256: str, device: torch.device) -> None:
        super().__init__(network, weights_sha256=weights_sha256, device=device)
        self.outputs: Mapping[str, int] = {POOLED: network.transformer.num_features}

    @torch.inference_mode()
    def __call__(self, images: Images) -> Features:
        """The class token behind the last LayerNorm."""
        _check_images(images)
        resized = np.stack([_resized_by_pil(image, SIDE) for image in images])
        pixels = torch.tensor(resized, device=self.device).permute(0, 3, 1, 2).float() / 255
        with full_precision():
            return {POOLED: self._network(pixels).float().cpu().numpy()}


def _resized_by_pil(
    image: UInt8[np.ndarray, "h w 3"], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    # PIL's bicubic always has antialiasing.
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _check_images(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images: {images.dtype} of shape {images.shape}; must be uint8 of shape (b, h, w, 3), from 0 to 255"
        )
