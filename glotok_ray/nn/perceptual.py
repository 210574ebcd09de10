"""The perceptual distance L_P (paper section 3.1), measured in a frozen network; gradients reach the images.
EfficientNet-Lite0's weights ship with a package; LPIPS-VGG (package lpips) takes VGG16's from torchvision or a file.

Read next: glotok_ray/losses/objective.py
"""

import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import lpips
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.pretrained.feature_networks import EfficientNetLite0, FrozenNetwork
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.weights import BRING_ANOTHER, check_finite

_BRING = (
    "bring torchvision's vgg16-397923af.pth (https://download.pytorch.org/models/vgg16-397923af.pth) and name it in "
    "loss.perceptual_weights_path, or choose loss.perceptual_network efficientnet_lite0, which needs no file"
)
# A download that stays silent for so long is given up: many clusters drop such packets unanswered.
_DOWNLOAD_SILENCE_S = 20.0


class StageNetwork(Protocol):
    """A module that gives the maps of its stages."""

    def features(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """From fine to coarse."""
        ...


class PerceptualDistance(FrozenNetwork):
    """LPIPS's distance with equal channel weights: there are no learned heads for such a network.

    At every stage the channels are scaled to unit length, their squared differences summed and
    averaged over positions.
    """

    def __init__(self, network: StageNetwork) -> None:
        super().__init__()
        self.network = network
        self.freeze()

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, ""]:
        """L_P: the sum over stages, averaged over the batch; images in [-1, 1]."""
        pairs = zip(self.network.features(x), self.network.features(y), strict=True)
        return torch.stack([_stage_distance(a, b) for a, b in pairs]).sum()


class LearnedPerceptualDistance(FrozenNetwork):
    """LPIPS in VGG16, as the package lpips computes it; the package's learned heads come with it.

    `.to(torch.bfloat16)` reaches VGG16 alone: distances and heads stay in fp32.
    """

    def __init__(self, weights: Mapping[str, Tensor], source: str) -> None:
        """`weights` name VGG16's tensors as torchvision or the package does, and may hold heads; `source` tells in
        errors where they come from. Raises ArtefactError that names a tensor missing or of another shape.
        """
        super().__init__()
        self.network = _empty_lpips()
        _fill(self.network, weights, source)
        self.network.add_module("net", _Trunk(self.network.net))
        # The heads hold dropout, which FrozenNetwork never lets a training loop wake.
        self.freeze()

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, ""]:
        """L_P: the sum over stages, averaged over the batch, in fp32; images in [-1, 1]."""
        return self.network(x.float(), y.float()).mean()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to()` and its kin call: the trunk follows in all, the rest to other devices alone."""
        for name, part in self.network.named_children():
            part._apply(fn if name == "net" else lambda tensor: tensor.to(fn(tensor).device))
        return self


class _Trunk(nn.Module):
    """VGG16 in the precision of its weights between images and maps in fp32."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """Five maps, from the full side to 1/16 of it."""
        precision = next(self.trunk.parameters()).dtype
        return [stage.float() for stage in self.trunk(images.to(precision))]


class NoDistance(nn.Module):
    """Stands in where loss.perceptual_weight is 0: nothing is computed and no file is needed."""

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, ""]:
        """Zero."""
        return y.new_zeros(())


def unit_difference(
    a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Squared difference of the two maps after their channels were scaled to unit length at every
    position.
    """
    return (_unit(a) - _unit(b)).square()


def _stage_distance(a: Tensor, b: Tensor) -> Tensor:
    # In fp32 also where the network runs in bf16: differences of nearly equal maps would be lost.
    return unit_difference(a.float(), b.float()).sum(dim=1).mean()


def _unit(x: Tensor) -> Tensor:
    # The epsilon under the root keeps the gradient finite where all channels are 0.
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt().clamp_min(1e-10)


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
        return LearnedPerceptualDistance(
            _read_weights(Path(loss.perceptual_weights_path), source), source
        )
    return LearnedPerceptualDistance(_torchvision_weights(), "torchvision's VGG16")


def perceptual_without_weights(loss: TokenizerLossConfig) -> nn.Module:
    """The module of `build_perceptual` on the meta device: it needs no file, and tells shapes alone."""
    if loss.perceptual_weight == 0:
        return NoDistance()
    if loss.perceptual_network == "efficientnet_lite0":
        return PerceptualDistance(EfficientNetLite0()).to("meta")
    return LearnedPerceptualDistance(_empty_lpips().state_dict(), "no weights").to("meta")


def _torchvision_weights() -> Mapping[str, Tensor]:
    """VGG16 trained on ImageNet, from torch.hub's cache or downloaded into it (528 MB)."""
    try:
        with _impatient_sockets():
            return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise ArtefactError(
            f"loss.perceptual_weights_path is empty, and torchvision could not get VGG16's weights ({error}); {_BRING}"
        ) from error


@contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Let new sockets of this process give up on silence; torch.hub offers no timeout of its own."""
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


def _empty_lpips() -> lpips.LPIPS:
    """The package's network without numbers, so without a download."""
    # On the meta device, as the package also builds VGG16's classifier: 124 million numbers that nobody reads. The
    # warning: it asks torchvision in words of old.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)
        return lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)


def _package_heads() -> dict[str, Tensor]:
    path = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    return torch.load(path, weights_only=True, map_location="cpu")


def _fill(network: lpips.LPIPS, weights: Mapping[str, Tensor], source: str) -> None:
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


def resize_images(images: Float[Tensor, "b 3 H W"], size: int) -> Float[Tensor, "b 3 size size"]:
    """Bilinear with antialiasing, to a square of side `size`; the aspect ratio is not kept."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
