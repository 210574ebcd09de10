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
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.places import to_path

_BRING = (
    "bring torchvision's vgg16-397923af.pth (https://download.pytorch.org/models/vgg16-397923af.pth) and name it in "
    "loss.perceptual_weights_path, or choose loss.perceptual_network efficientnet_lite0, which needs no file"
)


def check_perceptual(loss: TokenizerLossConfig) -> None:
    """Raise ArtefactError for a weights file that is missing or has another sha256; no network is built, and none is
    reached over the wire.
    """
    if loss.perceptual_weight == 0 or loss.perceptual_network != "lpips_vgg":
        return
    path, digest = loss.perceptual_weights_path, loss.perceptual_weights_sha256
    if path and not to_path(path).is_file():
        raise ArtefactError(f"loss.perceptual_weights_path = {path!r}: is no file; {_BRING}")
    if digest and not path:
        raise ArtefactError(
            f"loss.perceptual_weights_sha256 = {digest!r}: needs loss.perceptual_weights_path, which is empty; name "
            "the file there, or leave the digest empty (torchvision checks its own download)"
        )
    if digest and (found := sha256_of(to_path(path))) != digest.lower():
        raise ArtefactError(
            f"loss.perceptual_weights_sha256 = {digest!r}: must be the sha256 of loss.perceptual_weights_path = "
            f"{path!r}, which is {found!r}; bring the file you mean, or correct the digest"
        )


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
            to_path(loss.perceptual_weights_path), WeightsSource(source, _BRING)
        )
        return learned_distance(weights, source)
    return learned_distance(_torchvision_weights(), "torchvision's VGG16")


def learned_distance(weights: Mapping[str, Tensor], source: str) -> LearnedPerceptualDistance:
    """LPIPS in VGG16 with these weights, which name its tensors as torchvision or the package does, and may hold heads.

    `source` tells in errors where they come from. Raises ArtefactError that names a tensor missing or of another shape.
    """
    network = empty_lpips("vgg")
    fill_lpips(network, weights, WeightsSource(source, _BRING))
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
            f"loss.perceptual_weights_path is empty, and torchvision could not get VGG16's weights ({error}); {_BRING}"
        ) from error
