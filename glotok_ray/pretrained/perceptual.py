"""The network of the perceptual distance L_P with its weights: EfficientNet-Lite0's ship with a package; LPIPS-VGG
(package lpips) takes VGG16's from torchvision or a file.

lpips and torchvision's models take seconds to import, so they are imported where LPIPS is asked for.
Read next: glotok_ray/nn/perceptual.py
"""

import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.nn.lpips_layers import LPIPSLayers
from glotok_ray.nn.perceptual import LearnedPerceptualDistance, NoDistance, PerceptualDistance
from glotok_ray.pretrained.feature_networks import EfficientNetLite0
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.weights import BRING_ANOTHER, check_finite

if TYPE_CHECKING:
    import lpips

_BRING = (
    "bring torchvision's vgg16-397923af.pth (https://download.pytorch.org/models/vgg16-397923af.pth) and name it in "
    "loss.perceptual_weights_path, or choose loss.perceptual_network efficientnet_lite0, which needs no file"
)
# A download that stays silent for so long is given up: many clusters drop such packets unanswered.
_DOWNLOAD_SILENCE_S = 20.0


def check_perceptual(loss: TokenizerLossConfig) -> None:
    """Raise ArtefactError for a weights file that is missing or has another sha256; no network is built, and none is
    reached over the wire.
    """
    if loss.perceptual_weight == 0 or loss.perceptual_network != "lpips_vgg":
        return
    path, digest = loss.perceptual_weights_path, loss.perceptual_weights_sha256
    if path and not Path(path).is_file():
        raise ArtefactError(f"loss.perceptual_weights_path = {path!r}: is no file; {_BRING}")
    if digest and not path:
        raise ArtefactError(
            f"loss.perceptual_weights_sha256 = {digest!r}: needs loss.perceptual_weights_path, which is empty; name "
            "the file there, or leave the digest empty (torchvision checks its own download)"
        )
    if digest and (found := sha256_of(Path(path))) != digest.lower():
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
        return PerceptualDistance(EfficientNetLite0())
    if loss.perceptual_weights_path:
        source = f"loss.perceptual_weights_path = {loss.perceptual_weights_path!r}"
        return learned_distance(_read_weights(Path(loss.perceptual_weights_path), source), source)
    return learned_distance(_torchvision_weights(), "torchvision's VGG16")


def learned_distance(weights: Mapping[str, Tensor], source: str) -> LearnedPerceptualDistance:
    """LPIPS in VGG16 with these weights, which name its tensors as torchvision or the package does, and may hold heads.

    `source` tells in errors where they come from. Raises ArtefactError that names a tensor missing or of another shape.
    """
    network = _empty_lpips()
    _fill(network, weights, source)
    return LearnedPerceptualDistance(network)


def perceptual_without_weights(loss: TokenizerLossConfig) -> nn.Module:
    """The module of `build_perceptual` on the meta device: it needs no file, and tells shapes alone."""
    if loss.perceptual_weight == 0:
        return NoDistance()
    if loss.perceptual_network == "efficientnet_lite0":
        return PerceptualDistance(EfficientNetLite0()).to("meta")
    with torch.device("meta"):
        return LearnedPerceptualDistance(LPIPSLayers())


def _torchvision_weights() -> Mapping[str, Tensor]:
    """VGG16 trained on ImageNet, from torch.hub's cache or downloaded into it (528 MB)."""
    from torchvision.models import VGG16_Weights

    try:
        with _impatient_sockets():
            return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise ArtefactError(
            f"loss.perceptual_weights_path is empty, and torchvision could not get VGG16's weights ({error}); {_BRING}"
        ) from error


@contextmanager
def _impatient_sockets() -> Iterator[None]:
    """New sockets of this process have a timeout inside; torch.hub sets none of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_weights(path: Path, source: str) -> dict[str, Tensor]:
    """The tensors of a plain state dict, on the CPU; raises ArtefactError for anything else."""
    try:
        stored: Any = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except Exception as error:  # both readers raise untyped errors for damaged files
        raise ArtefactError(f"{source}: not a plain state dict ({error}); {_BRING}") from error
    if not isinstance(stored, dict):
        raise ArtefactError(
            f"{source}: not a plain state dict but a {type(stored).__name__}; {_BRING}"
        )
    return {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}


def _empty_lpips() -> "lpips.LPIPS":
    """The package's network without numbers, so without a download."""
    import lpips

    # On the meta device, as the package also builds VGG16's classifier: 124 million numbers that nobody reads. The
    # warning: it calls torchvision by a deprecated argument.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)
        return lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)


def _package_heads() -> dict[str, Tensor]:
    import lpips

    path = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    return torch.load(path, weights_only=True, map_location="cpu")


def _fill(network: "lpips.LPIPS", weights: Mapping[str, Tensor], source: str) -> None:
    """Give `network` its trunk from `weights`, and its heads from there or else from the package."""
    if not any(name.startswith("lin") for name in weights):
        weights = {**weights, **_package_heads()}
    # The second under the names of the file, for errors.
    found, taken = {}, {}
    for name, wanted in network.state_dict().items():
        # The package lists its heads twice, and has the scale of its inputs as a constant.
        if name.startswith(("lins.", "scaling_layer.")):
            continue
        # net.slice2.5.weight of the package is features.5.weight of torchvision.
        alias = ".".join(["features", *name.split(".")[2:]]) if name.startswith("net.") else name
        value = weights.get(name, weights.get(alias))
        if value is None:
            known = name if alias == name else f"{alias} (or {name})"
            raise ArtefactError(f"{source}: holds no tensor {known}; {_BRING}")
        if value.shape != wanted.shape:
            raise ArtefactError(
                f"{source}: {name if name in weights else alias} has shape {tuple(value.shape)}, must have "
                f"{tuple(wanted.shape)}; {_BRING}"
            )
        found[name] = taken[name if name in weights else alias] = value.float()
    check_finite(taken, source, BRING_ANOTHER)
    network.load_state_dict(found, strict=False, assign=True)
