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
    samples: Merged,
    validation: Merged,
    training: Merged | None,
    num_classes: int,
    feature_size: int,
) -> Metrics:
    """Share of samples whose nearest class mean is their own class, and the same of the validation crops.

    The means are those of `training`, as of any classifier, or where there is none those of the validation crops, each
    of which is then left out of its own. Null, with the reason, where a class has too few crops for a mean.
    """
    crops, known = ("validation", validation) if training is None else ("training", training)
    wanted = samples.arrays[LABELS]
    space = (
        f"pooled {EfficientNetLite0Features.name} features, images resized to {feature_size} x {feature_size}, squared "
        f"Euclidean distance to {num_classes} class means of {len(known.features)} {crops} crops"
    )
    left_out = ", each against a mean of its class that leaves it out" if training is None else ""
    chance = f"Guessing gives 1/{num_classes}."
    protocols = {
        "samples": f"Share of {len(wanted)} samples whose nearest class mean is that of the class they were drawn for: "
        f"{space}. {chance} The same share of the validation crops is its ceiling.",
        "validation": f"Share of the validation crops whose nearest class mean is their own "
        f"class{left_out}: {space}. {chance} It is the ceiling of the share of samples.",
    }
    names = {"samples": "Own class of samples", "validation": "Own class of validation crops"}
    shares: dict[str, float | None] = {"samples": None, "validation": None}
    reason = _undefined_reason(samples, validation, training, num_classes)
    if not reason:
        means = class_means(known.features, known.arrays[LABELS], num_classes)
        ceiling = own_class_share_left_out if training is None else own_class_share
        shares = {
            "samples": own_class_share(samples.features, wanted, means),
            "validation": ceiling(validation.features, validation.arrays[LABELS], means),
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
        "crops means that samples are copies of training images, or that they lack detail, which brings them nearer to "
        "all images.",
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


def _undefined_reason(
    samples: Merged, validation: Merged, training: Merged | None, num_classes: int
) -> str:
    """Why the metrics have no value; empty where they have one."""
    labelled = {"validation crops": validation, "samples": samples}
    if training is not None:
        labelled["training crops"] = training
    for what, merged in labelled.items():
        found = merged.arrays[LABELS]
        if not 0 <= found.min() <= found.max() < num_classes:
            return f"labels of the {what} reach from {found.min()} to {found.max()}"
    known, least = ("validation crops", 2) if training is None else ("training crops", 1)
    counts = np.bincount(labelled[known].arrays[LABELS], minlength=num_classes)
    if counts.min() >= least:
        return ""
    few = int((counts < least).sum())
    return f"{few} of {num_classes} classes have fewer than {least} {known}, the first is class {np.argmin(counts)}"
