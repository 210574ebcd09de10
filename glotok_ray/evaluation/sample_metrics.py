"""What samples show beside their distance to the data: their class, and whether they are copies of training crops.

Read next: glotok_ray/metrics/class_means.py, glotok_ray/metrics/nearest.py
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.evaluation.plan import SAMPLES, VALIDATION
from glotok_ray.metrics.class_means import class_means, own_class_share, own_class_share_left_out
from glotok_ray.metrics.nearest import nearest_distances


class Labelled(NamedTuple):
    """Features that come in blocks, and the label of each image."""

    features: Iterable[Shaped[ndarray, "b d"]]
    labels: Integer[ndarray, " n"]


_NO_LABELS = "the samples have no labels"


def own_class_metrics(
    samples: Labelled | None,
    validation: Labelled,
    training: Labelled | None,
    num_classes: int,
    feature_size: int,
) -> Metrics:
    """Share of samples whose nearest class mean is their own class, and the same of the validation crops.

    The means are those of `training`, as of any classifier, or where there is none those of the validation crops, each
    of which is then left out of its own. Null, with the reason, where a class has too few crops for a mean; the share
    of samples also where they are None, because nothing says which classes they were drawn for.
    """
    crops, known = ("validation", validation) if training is None else ("training", training)
    count = "" if samples is None else f"{len(samples.labels)} "
    space = (
        f"pooled {EfficientNetLite0Features.name} features, images resized to {feature_size} x {feature_size}, squared "
        f"Euclidean distance to {num_classes} class means of {len(known.labels)} {crops} crops"
    )
    left_out = ", each against a mean of its class that leaves it out" if training is None else ""
    chance = f"Guessing gives 1/{num_classes}."
    protocols = {
        "samples": f"Share of {count}samples whose nearest class mean is that of the class they were drawn for: "
        f"{space}. {chance} The same share of the validation crops is its ceiling.",
        "validation": f"Share of the validation crops whose nearest class mean is their own "
        f"class{left_out}: {space}. {chance} It is the ceiling of the share of samples.",
    }
    names = {"samples": "Own class of samples", "validation": "Own class of validation crops"}
    shares: dict[str, float | None] = {"samples": None, "validation": None}
    reason = _undefined_reason(samples, validation, training, num_classes)
    if not reason:
        means = class_means(known.features, known.labels, num_classes)
        ceiling = own_class_share_left_out if training is None else own_class_share
        shares["validation"] = ceiling(validation.features, validation.labels, means)
        if samples is not None:
            shares["samples"] = own_class_share(samples.features, samples.labels, means)
    reasons = {"samples": reason or (_NO_LABELS if samples is None else ""), "validation": reason}
    return {
        f"{kind}_own_class": metric_entry(
            names[kind],
            share,
            f"Undefined here ({reasons[kind]}). {protocols[kind]}"
            if reasons[kind]
            else protocols[kind],
            chance=1 / num_classes,
        )
        for kind, share in shares.items()
    }


def nearest_training_metrics(
    queries: Mapping[str, Iterable[Shaped[ndarray, "b d"]]],
    training: Iterable[Shaped[ndarray, "b d"]],
    num_training: int,
    config: EvaluateRun,
) -> Metrics:
    """Median distance of samples, and of validation crops, to the nearest training crop in feature space;
    `queries` are their features as SAMPLES and VALIDATION, and all come in blocks.
    """
    distances = {kind: nearest_distances(features, training) for kind, features in queries.items()}
    side, drawn = config.feature_size, "drawn by the seed" if config.training_images else "all"
    space = (
        f"Euclidean distance of pooled {EfficientNetLite0Features.name} features, images resized to {side} x {side}, "
        f"to the nearest of {num_training} training crops ({drawn})"
    )
    protocols = {
        SAMPLES: f"Median over {len(distances[SAMPLES])} samples of the {space}. A median far below that of the "
        "validation crops means that samples are copies of training images, or that they lack detail, which brings "
        "them nearer to all images.",
        VALIDATION: f"Median over {len(distances[VALIDATION])} validation crops of the {space}. They are real and "
        "were never trained on, so samples that are no copies lie about as far.",
    }
    labels = {
        SAMPLES: "Nearest training crop of samples",
        VALIDATION: "Nearest training crop of validation crops",
    }
    return {
        f"{kind}_nearest_training": metric_entry(
            labels[kind], float(np.median(found)), protocols[kind]
        )
        for kind, found in distances.items()
    }


def _undefined_reason(
    samples: Labelled | None, validation: Labelled, training: Labelled | None, num_classes: int
) -> str:
    """Why the metrics have no value; empty where they have one."""
    labelled = {"validation crops": validation}
    if samples is not None:
        labelled["samples"] = samples
    if training is not None:
        labelled["training crops"] = training
    for what, images in labelled.items():
        found = images.labels
        if not 0 <= found.min() <= found.max() < num_classes:
            return f"labels of the {what} reach from {found.min()} to {found.max()}"
    known, least = ("validation crops", 2) if training is None else ("training crops", 1)
    counts = np.bincount(labelled[known].labels, minlength=num_classes)
    if counts.min() >= least:
        return ""
    few = int((counts < least).sum())
    return f"{few} of {num_classes} classes have fewer than {least} {known}, the first is class {np.argmin(counts)}"
