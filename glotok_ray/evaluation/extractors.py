"""The networks of an evaluation: EfficientNet-Lite0 always, others where a setting names the file of their weights.

Read next: glotok_ray/evaluation/features.py
"""

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


def build_lpips(config: EvaluateRun, device: torch.device) -> LPIPSDistance | None:
    """None where no file of the backbone is named."""
    if not config.lpips_path:
        return None
    return LPIPSDistance(config.lpips_backbone, config.lpips_path, device=device)
