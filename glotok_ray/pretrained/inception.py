"""Inception-v3 of FID, as torch-fidelity ports it from TensorFlow, with its published weights or those of a file.

torch-fidelity brings graph and resizing; files are read here, since it would execute what a file holds.
Read next: glotok_ray/evaluation/features.py
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from glotok_ray.nn.frozen import FrozenNetwork
from glotok_ray.pretrained.downloads import impatient_sockets
from glotok_ray.pretrained.equal_pools import EqualPools
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    BRING_ANOTHER,
    check_finite,
    misfits,
    read_tensors,
    tensors_of,
    unnested,
)

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""sha256 of the published file, which torch-fidelity and pytorch-fid offer under two names."""
SUFFIXES = (".pth", ".pt", ".safetensors")
_BRING = (
    "bring torch-fidelity's weights-inception-2015-12-05-6726825d.pth (https://github.com/toshas/torch-fidelity/"
    "releases/download/v0.2.0/) or pytorch-fid's pt_inception-2015-12-05-6726825d.pth"
)
_SPATIAL_CHANNELS = 7


class InceptionOutputs(NamedTuple):
    """What one forward pass gives, in fp32."""

    pooled: Float[Tensor, "b 2048"]
    """The last map, averaged over positions: FID, KID, precision and recall."""
    logits: Float[Tensor, "b 1008"]
    """Class scores without the bias, which the Inception Score leaves out."""
    spatial: Float[Tensor, "b 2023"]
    """ADM's sFID: seven channels of the map mixed_6/conv of 17 x 17 positions, channels last."""


class Inception(FrozenNetwork):
    """torch-fidelity's Inception-v3, and ADM's spatial features beside its own layers."""

    def __init__(self, network: "FeatureExtractorInceptionV3") -> None:
        super().__init__()
        self.network = network
        self._map: Tensor | None = None
        # TensorFlow's mixed_6/conv is the first branch of the block that the port calls Mixed_6d.
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)
        self.freeze()

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> InceptionOutputs:
        """All outputs for images of any size, which torch-fidelity resizes to 299 x 299 as TensorFlow 1 did."""
        with EqualPools() if images.device.type == "cpu" else contextlib.nullcontext():
            pooled, logits = self.network(images)
        assert self._map is not None
        spatial = spatial_features(self._map)
        self._map = None
        return InceptionOutputs(pooled, logits, spatial)

    def _keep(self, module: object, inputs: object, output: Tensor) -> None:
        self._map = output


def spatial_features(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n"]:
    """The first seven channels of a map as one vector per image, channels varying fastest, as ADM flattens it."""
    return features[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()


class LoadedInception(NamedTuple):
    """The network on the CPU, and the sha256 of the file of its weights."""

    network: Inception
    weights_sha256: str


def load_inception(path: str, *, field: str = "inception_path") -> LoadedInception:
    """Inception-v3 with the weights of the file at `path`, or with the published ones, downloaded, where it is empty.

    `field` is the setting that names the file, for errors. Raises ArtefactError for a file that is missing, has another
    sha256 than its name ends with, or does not fit the network; nothing in it is executed.
    """
    source = f"{field} = {path!r}" if path else "torch-fidelity's download"
    file = to_path(path) if path else _downloaded(field)
    sha256 = _checked_sha256(file, source)
    network = empty_network()
    stored = _tensors(file, source)
    expected = network.state_dict()
    stored = {**_batch_counters(expected), **stored}
    if problems := misfits(stored, expected):
        raise ArtefactError(f"{source}: does not fit FID's Inception-v3: {problems}; {_BRING}")
    check_finite(stored, source, BRING_ANOTHER)
    network.load_state_dict(stored, assign=True)
    return LoadedInception(Inception(network), sha256)


def _checked_sha256(file: Path, source: str) -> str:
    """The file's sha256; raises ArtefactError when it is not there, or its name ends with another digest."""
    if not file.is_file():
        raise ArtefactError(f"{source}: no such file; {_BRING}")
    sha256 = sha256_of(file)
    # torch.hub's rule: NAME-DIGEST.pth, where the digest is a prefix of the sha256.
    promised = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", file.name)
    if promised and not sha256.startswith(promised[1]):
        raise ArtefactError(
            f"{source}: its name promises a sha256 that begins with {promised[1]}, but it is {sha256}; the file is "
            "damaged or renamed: fetch it again, or give it a name without a digest if it is another file"
        )
    return sha256


def _tensors(file: Path, source: str) -> dict[str, Tensor]:
    loaded = read_tensors(file, purpose="Inception-v3's weights", suffixes=SUFFIXES)
    if not isinstance(loaded, Mapping):
        raise ArtefactError(
            f"{source}: holds a {type(loaded).__name__}, not a state dict; {_BRING}"
        )
    return tensors_of(unnested(loaded))


def _batch_counters(expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms' counters of training batches, which older files lack and inference does not read."""
    names = (name for name in expected if name.endswith(".num_batches_tracked"))
    return {name: torch.tensor(0) for name in names}


def empty_network() -> "FeatureExtractorInceptionV3":
    """torch-fidelity's network on the meta device, without numbers: neither a file nor a download is needed."""
    import io

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unfilled(FeatureExtractorInceptionV3):
        """Its constructor loads weights; here they come afterwards, checked."""

        def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.device("meta"):
        return Unfilled(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=nothing,
        )


def _downloaded(field: str) -> Path:
    """The published file in torch.hub's cache, where torch-fidelity keeps it too; fetched when it is not there."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with impatient_sockets():
            torch.hub.download_url_to_file(
                URL_INCEPTION_V3, str(path), hash_prefix=PUBLISHED_SHA256, progress=False
            )
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise ArtefactError(
            f"{field} is empty, and the published weights of Inception-v3 could not be downloaded ({error}); {_BRING}, "
            f"and name the file in {field}"
        ) from error
    return path
