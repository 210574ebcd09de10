"""What samples show beside their distance to the data: their class, and whether they are copies of training crops.

Read next: glotok_ray/metrics/class_means.py, glotok_ray/metrics/nearest.py
"""

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.evaluation.measure import LABELS, Merged
from glotok_ray.metrics.class_means import class_means, own_class_share, own_class_share_left_out
from glotok_ray.metrics.nearest import nearest_distances


def own_class_metrics(
    samples: Merged, validation: Merged, num_classes: int, feature_size: int
) -> Metrics:
    """Share of samples whose nearest class mean is their own class, and the same of the validation crops; null, with
    the reason, where a class has fewer than 2 validation crops.
    """
    labels, wanted = validation.arrays[LABELS], samples.arrays[LABELS]
    space = (
        f"pooled {EfficientNetLite0Features.name} features, images resized to {feature_size} x {feature_size}, squared "
        f"Euclidean distance to {num_classes} class means of {len(labels)} validation crops"
    )
    chance = f"Guessing gives 1/{num_classes}."
    protocols = {
        "samples": f"Share of {len(wanted)} samples whose nearest class mean is that of the class they were drawn for: "
        f"{space}. {chance} The same share of the validation crops is its ceiling.",
        "validation": f"Share of the validation crops whose nearest class mean is their own class, each against a mean "
        f"of its class that leaves it out: {space}. {chance} It is the ceiling of the share of samples.",
    }
    names = {"samples": "Own class of samples", "validation": "Own class of validation crops"}
    shares: dict[str, float | None] = {"samples": None, "validation": None}
    reason = _undefined_reason(labels, wanted, num_classes)
    if not reason:
        means = class_means(validation.features, labels, num_classes)
        shares = {
            "samples": own_class_share(samples.features, wanted, means),
            "validation": own_class_share_left_out(validation.features, labels, means),
        }
    return {
        f"{kind}_own_class": metric_entry(
            names[kind],
            share,
            f"Undefined here ({reason}). {protocols[kind]}" if reason else protocols[kind],
            chance=1 / num_classes,
        )
        for kind, share in shares.items()
    }


def nearest_training_metrics(
    samples: Shaped[ndarray, "n d"],
    validation: Shaped[ndarray, "m d"],
    training: Shaped[ndarray, "t d"],
    config: EvaluateRun,
) -> Metrics:
    """Median distance of samples, and of validation crops, to the nearest training crop in feature space."""
    side, drawn = config.feature_size, "drawn by the seed" if config.training_images else "all"
    space = (
        f"Euclidean distance of pooled {EfficientNetLite0Features.name} features, images resized to {side} x {side}, "
        f"to the nearest of {len(training)} training crops ({drawn})"
    )
    protocols = {
        "samples": f"Median over {len(samples)} samples of the {space}. A median far below that of the validation "
        "crops means that samples are copies of training images.",
        "validation": f"Median over {len(validation)} validation crops of the {space}. They are real and were never "
        "trained on, so samples that are no copies lie about as far.",
    }
    labels = {
        "samples": "Nearest training crop of samples",
        "validation": "Nearest training crop of validation crops",
    }
    return {
        f"{kind}_nearest_training": metric_entry(
            labels[kind], float(np.median(nearest_distances(features, training))), protocols[kind]
        )
        for kind, features in (("samples", samples), ("validation", validation))
    }


def _undefined_reason(labels: np.ndarray, wanted: np.ndarray, num_classes: int) -> str:
    """Why the metrics have no value; empty where they have one."""
    for what, found in (("validation crops", labels), ("samples", wanted)):
        if not 0 <= found.min() <= found.max() < num_classes:
            return f"labels of the {what} reach from {found.min()} to {found.max()}"
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() >= 2:
        return ""
    few = int((counts < 2).sum())
    return f"{few} of {num_classes} classes have fewer than 2 validation crops, the first is class {np.argmin(counts)}"
