"""The network of the perceptual distance L_P with its weights: EfficientNet-Lite0's ship with a package; LPIPS-VGG
(package lpips) takes VGG16's from torchvision or a file.

torchvision's models take seconds to import, so they are imported where LPIPS is asked for.
Read next: glotok_ray/pretrained/lpips_weights.py, glotok_ray/nn/perceptual.py
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.nn.lpips_layers import LPIPSLayers
from glotok_ray.nn.perceptual import LearnedPerceptualDistance, NoDistance, PerceptualDistance
from glotok_ray.pretrained.downloads import impatient_sockets
from glotok_ray.pretrained.feature_networks import EfficientNetLite0
from glotok_ray.pretrained.lpips_weights import (
    WeightsSource,
    empty_lpips,
    fill_lpips,
    read_plain_tensors,
)
from glotok_ray.pretrained.perceptual_files import BRING_VGG16, check_perceptual
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path


def build_perceptual(loss: TokenizerLossConfig) -> nn.Module:
    """The frozen module that computes L_P from two batches.

    Raises ArtefactError where VGG16's weights are missing or foreign, or cannot be downloaded.
    """
    check_perceptual(loss)
    if loss.perceptual_weight == 0:
        return NoDistance()
    if loss.perceptual_network == "efficientnet_lite0":
        return PerceptualDistance(EfficientNetLite0().fused())
    if loss.perceptual_weights_path:
        source = f"loss.perceptual_weights_path = {loss.perceptual_weights_path!r}"
        weights = read_plain_tensors(
            to_path(loss.perceptual_weights_path), WeightsSource(source, BRING_VGG16)
        )
        return learned_distance(weights, source)
    return learned_distance(_torchvision_weights(), "torchvision's VGG16")


def learned_distance(weights: Mapping[str, Tensor], source: str) -> LearnedPerceptualDistance:
    """LPIPS in VGG16 with these weights, which name its tensors as torchvision or the package does, and may hold heads.

    `source` tells in errors where they come from. Raises ArtefactError that names a tensor missing or of another shape.
    """
    network = empty_lpips("vgg")
    fill_lpips(network, weights, WeightsSource(source, BRING_VGG16))
    return LearnedPerceptualDistance(network)


def perceptual_without_weights(loss: TokenizerLossConfig) -> nn.Module:
    """The module of `build_perceptual` on the meta device: it needs no file, and tells shapes alone."""
    if loss.perceptual_weight == 0:
        return NoDistance()
    if loss.perceptual_network == "efficientnet_lite0":
        return PerceptualDistance(EfficientNetLite0().fused()).to("meta")
    with torch.device("meta"):
        return LearnedPerceptualDistance(LPIPSLayers())


def _torchvision_weights() -> Mapping[str, Tensor]:
    """VGG16 trained on ImageNet, from torch.hub's cache or downloaded into it (528 MB)."""
    from torchvision.models import VGG16_Weights

    try:
        with impatient_sockets():
            return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise ArtefactError(
            f"loss.perceptual_weights_path is empty, and torchvision could not get VGG16's weights ({error}); "
            f"{BRING_VGG16}"
        ) from error
