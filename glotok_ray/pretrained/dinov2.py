"""DINOv2 (ViT-L/14) as the feature network of FD-DINOv2, with timm's transformer and weights of a file.

Positions are resampled as the release of DINOv2 does it, which dgm-eval runs; timm's own rule gives other features.
timm takes seconds to import, so it is imported where it is used. Read next: glotok_ray/evaluation/features.py
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glotok_ray.nn.frozen import FrozenNetwork
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    BRING_ANOTHER,
    FLOATS,
    check_finite,
    misfits,
    read_tensors,
    tensors_of,
    unnested,
)

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

SIDE = 224
"""Pixels of the images that the network takes, as in dgm-eval."""
SUFFIXES = (".pth", ".pt", ".safetensors")
_ARCHITECTURE = "vit_large_patch14_dinov2"
# The release adds it to the grid's side before it divides; a later version calls it interpolate_offset.
_POSITION_OFFSET = 0.1
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BRING = (
    "bring DINOv2's dinov2_vitl14_pretrain.pth (https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/) or "
    "model.safetensors of the Hugging Face repository timm/vit_large_patch14_dinov2.lvd142m"
)


class DINOv2(FrozenNetwork):
    """The class token behind the last LayerNorm of a vision transformer of timm."""

    mean: Tensor
    std: Tensor

    def __init__(self, transformer: "VisionTransformer") -> None:
        super().__init__()
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        self.transformer = transformer
        self.freeze()

    def forward(self, images: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b width"]:
        """Images in [0, 1] of 224 pixels; normalised by ImageNet's mean and deviation here."""
        return self.transformer.forward_features((images - self.mean) / self.std)[:, 0]


class LoadedDINOv2(NamedTuple):
    """The network on the CPU, and the sha256 of the file of its weights."""

    network: DINOv2
    weights_sha256: str


def load_dinov2(path: str, *, field: str = "dinov2_path") -> LoadedDINOv2:
    """DINOv2 with the weights of the file at `path`, in timm's names or those of the release.

    `field` is the setting that names the file, for errors. Raises ArtefactError for a file that is missing or does not
    fit the network; nothing in it is executed.
    """
    source, file = f"{field} = {path!r}", to_path(path)
    if not path or not file.is_file():
        raise ArtefactError(f"{source}: no such file; {_BRING}")
    loaded = read_tensors(file, purpose="DINOv2's weights", suffixes=SUFFIXES)
    if not isinstance(loaded, Mapping):
        raise ArtefactError(
            f"{source}: holds a {type(loaded).__name__}, not a state dict; {_BRING}"
        )
    network = build_dinov2(tensors_of(unnested(loaded)), _empty_transformer(), source)
    return LoadedDINOv2(network, sha256_of(file))


def build_dinov2(
    tensors: dict[str, Tensor], transformer: "VisionTransformer", source: str
) -> DINOv2:
    """`transformer`, which may be on the meta device, with the weights `tensors`; raises ArtefactError that lists what
    does not fit.
    """
    # It stands for masked patches in training.
    stored = {name: value for name, value in tensors.items() if name != "mask_token"}
    expected = transformer.state_dict()
    positions = stored.get("pos_embed")
    if positions is not None:
        stored["pos_embed"] = _resampled(positions, expected["pos_embed"].shape[1])
    if problems := misfits(stored, expected):
        raise ArtefactError(f"{source}: does not fit DINOv2's ViT-L/14: {problems}; {_BRING}")
    check_finite(stored, source, BRING_ANOTHER)
    transformer.load_state_dict(stored, assign=True)
    return DINOv2(transformer)


def _resampled(positions: Tensor, count: int) -> Tensor:
    """Positions of a square grid, behind that of the class token, for `count` tokens; unchanged where they are no such
    grid, no such numbers, or as many already.
    """
    if positions.ndim != 3 or positions.shape[1] == count or positions.dtype not in FLOATS:
        return positions
    side, wanted = math.isqrt(positions.shape[1] - 1), math.isqrt(count - 1)
    if side * side != positions.shape[1] - 1:
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (wanted + _POSITION_OFFSET) / side
    # By the factor, not the size: it also shifts where samples are taken, as in the release.
    found = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], found.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _empty_transformer(**changes: Any) -> "VisionTransformer":
    """timm's ViT-L/14 for 224 pixels on the meta device; `changes` are arguments of timm."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        transformer = timm.create_model(
            _ARCHITECTURE,
            img_size=SIDE,
            num_classes=0,
            weight_init="skip",
            use_naflex=False,
            **changes,
        )
    assert isinstance(transformer, VisionTransformer)
    return transformer
