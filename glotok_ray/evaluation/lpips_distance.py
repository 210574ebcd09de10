"""LPIPS as a metric: the perceptual distance of each pair of images, by the package lpips (Zhang et al., 2018).

Its heads come with the package, the backbone's weights from a file. Read next: glotok_ray/pretrained/lpips_weights.py
"""

from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8

from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.devices import full_precision
from glotok_ray.pretrained.lpips_weights import (
    TORCHVISION_FILES,
    Backbone,
    WeightsSource,
    empty_lpips,
    fill_lpips,
    read_plain_tensors,
)
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.places import to_path

_TITLES = {"alex": "AlexNet", "vgg": "VGG16"}


class LPIPSDistance:
    """Distances of pairs of 8-bit images, in full fp32; 0 for equal images."""

    def __init__(
        self, backbone: Backbone, path: str, *, device: torch.device, field: str = "lpips_path"
    ) -> None:
        """With the backbone's weights of the file that the setting `field` names.

        Raises ValueError for another backbone, and ArtefactError for a file that is missing or does not fit it.
        """
        if backbone not in get_args(Backbone):
            raise ValueError(
                f"backbone = {backbone!r}: must be one of {', '.join(get_args(Backbone))}"
            )
        source = WeightsSource(
            f"{field} = {path!r}",
            f"bring torchvision's {TORCHVISION_FILES[backbone]} "
            f"(https://download.pytorch.org/models/{TORCHVISION_FILES[backbone]})",
        )
        if not path or not to_path(path).is_file():
            raise ArtefactError(f"{source.name}: is no file; {source.remedy}")
        network = empty_lpips(backbone)
        fill_lpips(network, read_plain_tensors(to_path(path), source), source)
        self.name = f"LPIPS ({_TITLES[backbone]})"
        """As metrics name it: distances in different backbones are different metrics."""
        self.weights_sha256 = sha256_of(to_path(path))
        self.device = device
        self._network = network.requires_grad_(False).eval().to(device)

    @torch.inference_mode()
    def __call__(
        self, images: UInt8[np.ndarray, "b h w 3"], others: UInt8[np.ndarray, "b h w 3"]
    ) -> Float[np.ndarray, " b"]:
        """One distance per pair, in float64. Raises ValueError for other shapes and dtypes, and for distances that are
        not finite.
        """
        if images.shape != others.shape or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"shapes {images.shape} and {others.shape}: need equal (b, h, w, 3)")
        with full_precision():
            found = self._network(
                to_model_range(images, self.device), to_model_range(others, self.device)
            )
        distances = found.flatten().double().cpu().numpy()
        if not np.isfinite(distances).all():
            raise ValueError("distances: hold values that are not finite; check the backbone")
        return distances
