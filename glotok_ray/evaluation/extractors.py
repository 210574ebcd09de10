"""The networks of an evaluation: EfficientNet-Lite0 always, others where a setting names the file of their weights.

Read next: glotok_ray/evaluation/features.py
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from glotok_ray.config.evaluation import DOWNLOAD, EvaluateRun
from glotok_ray.evaluation.features import (
    DINOv2Features,
    EfficientNetLite0Features,
    FeatureExtractor,
    InceptionFeatures,
)
from glotok_ray.evaluation.inception_check import check_published_weights
from glotok_ray.evaluation.lpips_distance import LPIPSDistance
from glotok_ray.pretrained.inception import PUBLISHED_SHA256
from glotok_ray.storage.artefact import sha256_of
from glotok_ray.storage.places import to_path

EFFNET, INCEPTION, DINOV2 = "effnet", "inception", "dinov2"
"""Keys of the networks."""
LPIPS_SHA256, REFERENCE_SHA256 = "lpips_sha256", "reference_sha256"
"""Of `file_digests`."""
ADM_INCEPTION = "ADM's Inception"
"""What FID's published weights are called beside published numbers: the port agrees with ADM's graph."""


class Network(NamedTuple):
    """What metrics say of a feature network, without the network."""

    key: str
    name: str
    outputs: Mapping[str, int]
    """Widths of what it gives, by name."""
    input_contract: str
    weights_sha256: str

    def facts(self, **more: Any) -> dict[str, Any]:
        """What two values of one metric must share to be compared."""
        published = self.weights_sha256 == PUBLISHED_SHA256
        weights = "" if self.key == EFFNET else f", weights {self.weights_sha256[:12]}"
        return {
            "network": ADM_INCEPTION if published else f"{self.name}{weights}",
            "weights_sha256": self.weights_sha256,
            "input": self.input_contract,
            **more,
        }


def networks_of(extractors: Sequence[FeatureExtractor]) -> list[Network]:
    """What is said of these networks."""
    return [
        Network(one.key, one.name, one.outputs, one.input_contract, one.weights_sha256)
        for one in extractors
    ]


def build_extractors(config: EvaluateRun, device: torch.device) -> list[FeatureExtractor]:
    """EfficientNet-Lite0 first. Raises ArtefactError for weights that are missing or not what they should be."""
    extractors: list[FeatureExtractor] = [
        EfficientNetLite0Features(input_side=config.feature_size, device=device)
    ]
    if config.inception_path:
        path = "" if config.inception_path == DOWNLOAD else config.inception_path
        inception = InceptionFeatures.load(path, device=device)
        check_published_weights(inception)
        extractors.append(inception)
    if config.dinov2_path:
        extractors.append(DINOv2Features.load(config.dinov2_path, device=device))
    return extractors


def file_digests(config: EvaluateRun) -> dict[str, str]:
    """The sha256 of each file of weights or statistics that a setting names, without building a network.

    EfficientNet's weights ship with a package, whose version is recorded elsewhere.
    """
    paths = {
        "inception_sha256": config.inception_path,
        "dinov2_sha256": config.dinov2_path,
        LPIPS_SHA256: config.lpips_path,
        REFERENCE_SHA256: config.reference_path,
    }
    # A download is refused unless its digest begins as the published one does.
    return {
        name: PUBLISHED_SHA256 if path == DOWNLOAD else sha256_of(to_path(path))
        for name, path in paths.items()
        if path
    }


def build_lpips(config: EvaluateRun, device: torch.device) -> LPIPSDistance | None:
    """None where no file of the backbone is named."""
    if not config.lpips_path:
        return None
    return LPIPSDistance(config.lpips_backbone, config.lpips_path, device=device)
