"""Frozen networks whose spatial features the teacher clusters (paper section 4.1: DINOv2).

EfficientNet-Lite0 ships with the package; any other network comes as a local program file made by
torch.export. Read next: glotok_ray/teacher/clustering.py
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from glotok_ray import artefact
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import TeacherRun
from glotok_ray.nn.feature_networks import EfficientNetLite0


class Normalization(NamedTuple):
    """Mean and standard deviation per colour channel, for pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# As in torchvision's ImageNet transforms and in OpenAI's CLIP preprocessor.
NORMALIZATIONS = {
    "dinov2_vitb14_reg": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip_vitl14": Normalization(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
}


class FeatureNetwork(Protocol):
    """What the teacher needs of a network."""

    def spatial(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b channels h w"]:
        """Feature maps of images in [-1, 1]."""
        ...


class ExportedNetwork(nn.Module):
    """A network saved by `torch.export.save`; it maps normalised images to (b, c, h, w) or (b,
    tokens, c).

    Tokens must be the patch tokens alone, in row-major order of a square grid: drop class and
    register tokens before exporting. Normalisation happens here, by `NORMALIZATIONS`. Where the
    network's own library is installed:

        class Patches(torch.nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, images):
                return self.network.forward_features(images)["x_norm_patchtokens"]

        network = Patches(torch.hub.load("facebookresearch/dinov2", "dinov2_vitb14_reg")).eval()
        batch = {0: torch.export.Dim("batch", min=1, max=1024)}
        program = torch.export.export(network, (torch.zeros(2, 3, 224, 224),),
        dynamic_shapes=(batch,)) torch.export.save(program, "dinov2_vitb14_reg_224.pt2")

    The file fixes the image side (224 here), which must equal `input_size`. Load only files from
    sources you trust.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path, normalization: Normalization, device: torch.device) -> None:
        super().__init__()
        try:
            program = move_to_device_pass(torch.export.load(path), device)
        except Exception as error:  # torch.export raises many untyped errors for foreign files
            raise ArtefactError(
                f"weights_path = {str(path)!r}: not a program of torch.export.save ({error}); "
                "export the network as glotok_ray.teacher.features.ExportedNetwork says"
            ) from error
        self.network = program.module()
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(normalization.mean, device=device).view(shape))
        self.register_buffer("std", torch.tensor(normalization.std, device=device).view(shape))
        self.requires_grad_(False)

    def spatial(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b channels h w"]:
        """Feature maps of images in [-1, 1]; raises ArtefactError when the program does not fit."""
        try:
            features = self.network(((images + 1) / 2 - self.mean) / self.std)
        except (AssertionError, RuntimeError) as error:
            raise ArtefactError(
                f"weights_path: the program refuses images of shape {tuple(images.shape)} "
                f"({error}); "
                "set input_size to the side it was exported with, and export it with a dynamic "
                "batch"
            ) from error
        return _as_map(features)


def _as_map(features: Tensor) -> Tensor:
    """(b, c, h, w) as it is; (b, tokens, c) laid out on its square grid."""
    if features.ndim == 4:
        return features
    side = math.isqrt(features.shape[1]) if features.ndim == 3 else 0
    if side == 0 or side * side != features.shape[1]:
        raise ArtefactError(
            f"weights_path: the program returns shape {tuple(features.shape)}; it must return (b, "
            "c, h, w), or "
            "(b, tokens, c) with a square number of patch tokens (class and register tokens "
            "dropped)"
        )
    return features.transpose(1, 2).unflatten(2, (side, side))


def check_weights(config: TeacherRun) -> None:
    """Raise ArtefactError that names the file to bring when weights are not at hand."""
    if config.network not in NORMALIZATIONS or Path(config.weights_path).is_file():
        return
    found = "is empty" if not config.weights_path else f"= {config.weights_path!r} is no file"
    raise ArtefactError(
        f"weights_path {found}: network {config.network!r} does not ship with this package and "
        "nothing is downloaded. "
        f"Bring {config.network}_{config.input_size}.pt2, exported where its library is installed "
        "as "
        "glotok_ray.teacher.features.ExportedNetwork says, or choose --network efficientnet_lite0"
    )


def build_feature_network(config: TeacherRun, device: torch.device) -> FeatureNetwork:
    """The frozen network of `config` on `device`, in evaluation mode."""
    check_weights(config)
    if config.network == "efficientnet_lite0":
        return EfficientNetLite0().requires_grad_(False).eval().to(device)
    return ExportedNetwork(Path(config.weights_path), NORMALIZATIONS[config.network], device)


def weights_digest(config: TeacherRun) -> str:
    """sha256 of the weights: of the file at weights_path, or of the embedded network's tensors."""
    check_weights(config)
    if config.network in NORMALIZATIONS:
        return artefact.sha256_of(Path(config.weights_path))
    digest = hashlib.sha256()
    for name, value in sorted(EfficientNetLite0().state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def draw_vectors(
    features: Float[Tensor, "channels h w"], number: int, generator: np.random.Generator
) -> Float[Tensor, "vectors channels"]:
    """`number` different spatial vectors of one image, in the order drawn; all of them where the
    map has fewer.
    """
    vectors = features.flatten(1).T
    chosen = generator.permutation(len(vectors))[:number]
    return vectors[torch.from_numpy(chosen).to(vectors.device)]
