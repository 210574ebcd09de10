"""LPIPS networks of the package lpips with weights from files: trunks as torchvision stores them, heads of the package.

lpips and torchvision's models take seconds to import, so they are imported where LPIPS is asked for.
Read next: glotok_ray/pretrained/perceptual.py, glotok_ray/evaluation/lpips_distance.py
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.weights import BRING_ANOTHER, check_finite, same_kind

if TYPE_CHECKING:
    import lpips

Backbone = Literal["alex", "vgg"]
"""As the package names them: AlexNet, the usual one of evaluations, and VGG16, the usual one of losses."""
TORCHVISION_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
"""Names under which torchvision publishes the backbones."""


class WeightsSource(NamedTuple):
    """How errors speak of a weights file."""

    name: str
    """Where the weights come from."""
    remedy: str
    """What to do when they do not fit."""


def read_plain_tensors(path: Path, source: WeightsSource) -> dict[str, Tensor]:
    """The tensors of a plain state dict, on the CPU; raises ArtefactError for anything else."""
    try:
        stored: Any = (
            safetensors.torch.load_file(at_hand(path))
            if path.suffix == ".safetensors"
            else torch.load(at_hand(path), weights_only=True, map_location="cpu")
        )
    except Exception as error:  # both readers raise untyped errors for damaged files
        raise ArtefactError(
            f"{source.name}: not a plain state dict ({error}); {source.remedy}"
        ) from error
    if not isinstance(stored, dict):
        raise ArtefactError(
            f"{source.name}: not a plain state dict but a {type(stored).__name__}; {source.remedy}"
        )
    return {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}


def empty_lpips(backbone: Backbone) -> "lpips.LPIPS":
    """The package's network without numbers, so without a download."""
    import lpips

    # On the meta device, as the package also builds the backbone's classifier: up to 124 million numbers that nobody
    # reads. The warning: it calls torchvision by a deprecated argument.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)
        return lpips.LPIPS(net=backbone, pretrained=False, pnet_rand=True, verbose=False)


def fill_lpips(
    network: "lpips.LPIPS", weights: Mapping[str, Tensor], source: WeightsSource
) -> None:
    """Give `network` its trunk from `weights`, and its heads from there or else from the package.

    `weights` name tensors as torchvision or the package does. Raises ArtefactError that names a tensor missing, of
    another shape or with values that are not finite.
    """
    if not any(name.startswith("lin") for name in weights):
        weights = {**weights, **_package_heads(network.pnet_type)}
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
            raise ArtefactError(f"{source.name}: holds no tensor {known}; {source.remedy}")
        if value.shape != wanted.shape:
            raise ArtefactError(
                f"{source.name}: {name if name in weights else alias} has shape {tuple(value.shape)}, must have "
                f"{tuple(wanted.shape)}; {source.remedy}"
            )
        if not same_kind(value, wanted):
            raise ArtefactError(
                f"{source.name}: {name if name in weights else alias} holds {value.dtype}, must be floating-point "
                f"numbers of 16, 32 or 64 bits; {source.remedy}"
            )
        found[name] = taken[name if name in weights else alias] = value.float()
    check_finite(taken, source.name, BRING_ANOTHER)
    network.load_state_dict(found, strict=False, assign=True)


def _package_heads(backbone: str) -> dict[str, Tensor]:
    import lpips

    path = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{backbone}.pth"
    return torch.load(path, weights_only=True, map_location="cpu")
