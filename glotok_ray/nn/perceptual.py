"""The perceptual distance L_P (paper section 3.1), measured in a frozen network; gradients reach the images.
EfficientNet-Lite0 needs no file, LPIPS-VGG needs one local file.

Read next: glotok_ray/losses/objective.py
"""

import pickle
import re
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.artefact import ArtefactError
from glotok_ray.config import TokenizerLossConfig
from glotok_ray.nn.feature_networks import EfficientNetLite0, FrozenNetwork, VGGFeatures

_LPIPS_HELP = (
    "Bring one file with the state dict of LPIPS-VGG: VGG16's features.*.weight and .bias (or "
    "net.slice*.*) and lin0.model.1.weight to lin4.model.1.weight, for example by "
    "torch.save(lpips.LPIPS(net='vgg').state_dict(), path) where the lpips package is installed; "
    "or choose loss.perceptual_network efficientnet_lite0, which needs no file"
)


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
        return torch.stack([unit_difference(a, b).sum(dim=1).mean() for a, b in pairs]).sum()


class LearnedPerceptualDistance(FrozenNetwork):
    """LPIPS in VGG16: the same distance with one learned weight per channel. The heads' dropout is
    left out, as in evaluation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = VGGFeatures()
        self.heads = nn.ModuleList(
            nn.Conv2d(width, 1, 1, bias=False) for width in VGGFeatures.WIDTHS
        )
        self.freeze()

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, ""]:
        """L_P: the sum over stages, averaged over the batch; images in [-1, 1]."""
        stages = zip(self.heads, self.network.features(x), self.network.features(y), strict=True)
        return torch.stack([head(unit_difference(a, b)).mean() for head, a, b in stages]).sum()


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


def _unit(x: Tensor) -> Tensor:
    # The epsilon under the root keeps the gradient finite where all channels are 0.
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt().clamp_min(1e-10)


def build_perceptual(loss: TokenizerLossConfig) -> nn.Module:
    """The frozen module that computes L_P from two batches; raises ArtefactError where a weights
    file is missing or foreign.
    """
    if loss.perceptual_weight == 0:
        return NoDistance()
    if loss.perceptual_network == "efficientnet_lite0":
        return PerceptualDistance(EfficientNetLite0())
    return load_lpips_vgg(loss.perceptual_weights_path)


def load_lpips_vgg(path: str) -> LearnedPerceptualDistance:
    """LPIPS-VGG from one file; raises ArtefactError that says which file to bring."""
    if not path or not Path(path).is_file():
        found = "is empty" if not path else f"= {path!r} is no file"
        raise ArtefactError(f"loss.perceptual_weights_path {found}. {_LPIPS_HELP}")
    try:
        stored = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ArtefactError(
            f"loss.perceptual_weights_path = {path!r}: not a plain state dict ({error}). {_LPIPS_HELP}"
        ) from error
    model = LearnedPerceptualDistance()
    try:
        result = model.load_state_dict(_renamed(stored), strict=False)
    except RuntimeError as error:
        raise ArtefactError(
            f"loss.perceptual_weights_path = {path!r}: {error}. {_LPIPS_HELP}"
        ) from error
    missing = [name for name in result.missing_keys if not name.endswith((".shift", ".scale"))]
    if missing:
        raise ArtefactError(
            f"loss.perceptual_weights_path = {path!r}: nothing in it gives {missing[0]}. {_LPIPS_HELP}"
        )
    return model


def _renamed(stored: object) -> dict[str, Tensor]:
    """Our names for the tensors of torchvision's VGG16 and of the lpips package; the rest is left
    out.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in stored.items() if isinstance(stored, dict) else ():
        trunk = re.fullmatch(r"(?:.*\.)?(?:features|slice[1-5])\.(\d+)\.(weight|bias)", str(name))
        head = re.fullmatch(r"(?:.*\.)?lin([0-4])\.model\.1\.weight", str(name))
        if trunk:
            renamed[f"network.layers.{trunk[1]}.{trunk[2]}"] = value
        elif head:
            renamed[f"heads.{head[1]}.weight"] = value
    return renamed


def resize_images(images: Float[Tensor, "b 3 H W"], size: int) -> Float[Tensor, "b 3 size size"]:
    """Bilinear with antialiasing, to a square of side `size`; the aspect ratio is not kept."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
