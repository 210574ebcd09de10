"""What samples show beside their distance to the data: their class.

Read next: glotok_ray/metrics/class_means.py
"""

import numpy as np

from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.evaluation.measure import LABELS, Merged
from glotok_ray.metrics.class_means import class_means, own_class_share, own_class_share_left_out


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
        "samples": f"Share of {len(wanted)} samples whose nearest class mean is the class they were drawn for: {space}. "
        f"{chance} It is the share of what can be recognised by this network, whose ceiling is that of real crops.",
        "validation": f"Share of the validation crops whose nearest class mean is their own class, each against a mean "
        f"of its class that leaves it out: {space}. {chance} It is the ceiling for samples.",
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
