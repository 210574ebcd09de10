"""What samples show beside their distance to the data: their class, and whether they are copies of training crops.

Read next: glotok_ray/metrics/class_means.py, glotok_ray/metrics/nearest.py
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Shaped
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.evaluation.plan import DECODED, SAMPLES, VALIDATION
from glotok_ray.metrics.class_means import (
    class_means,
    most_frequent_share,
    own_class_share,
    own_class_share_left_out,
)
from glotok_ray.metrics.nearest import nearest_distances


class Labelled(NamedTuple):
    """Features that come in blocks, and the label of each image."""

    features: Iterable[Shaped[ndarray, "b d"]]
    labels: Integer[ndarray, " n"]


class _Chosen:
    """The rows of blocks that a mask over all rows keeps; each pass reads the blocks anew."""

    def __init__(self, blocks: Iterable[Shaped[ndarray, "b d"]], mask: Bool[ndarray, " n"]) -> None:
        self._blocks, self._mask = blocks, mask

    def __iter__(self) -> Iterator[Shaped[ndarray, "b d"]]:
        start = 0
        for block in self._blocks:
            chosen = block[self._mask[start : start + len(block)]]
            start += len(block)
            if len(chosen):
                yield chosen


_NO_LABELS = "the samples have no labels"
_LABELS = {"samples": "Own class of samples", "validation": "Own class of validation crops"}


def own_class_metrics(
    samples: Labelled | None,
    validation: Labelled,
    training: Labelled | None,
    num_classes: int,
    feature_size: int,
) -> Metrics:
    """Share of samples whose nearest class mean is their own class, and the same of the validation crops.

    The means are those of `training`, as of any classifier, or where there is none those of the validation crops, each
    of which is then left out of its own. A class with too few crops for a mean is left out, with its images. Null, with
    the reason, where less than two of several classes have a mean; the share of samples also where they are None,
    because nothing says which classes they were drawn for.
    """
    crops, known, least = (
        ("validation", validation, 2) if training is None else ("training", training, 1)
    )
    given = {"samples": samples, "validation": validation, "training": training}
    labelled = {kind: images for kind, images in given.items() if images is not None}
    reason, has_mean = _outside(labelled, num_classes), np.full(num_classes, True)
    if not reason:
        has_mean = np.bincount(known.labels, minlength=num_classes) >= least
        labelled = {kind: _of_classes(images, has_mean) for kind, images in labelled.items()}
        known = labelled[crops]
        reason = _undefined_reason(labelled, has_mean, f"fewer than {least} {crops} crops")
    num_means = int(has_mean.sum())
    means = None if reason else class_means(known.features, known.labels, num_means)
    space = (
        f"pooled {EfficientNetLite0Features.name} features, images resized to {feature_size} x {feature_size}, squared "
        f"Euclidean distance to {num_means} class means of {len(known.labels)} {crops} crops"
    )
    facts = {}
    if num_means < num_classes:
        space += (
            f"; {num_classes - num_means} of {num_classes} classes, with fewer than {least} of these crops, are left "
            "out with their images"
        )
        facts = {"classes": num_classes, "classes_with_mean": num_means}
    left_out = ", each against a mean of its class that leaves it out" if training is None else ""
    metrics: Metrics = {}
    for kind, label in _LABELS.items():
        images = labelled.get(kind)
        share, chance, lacking = None, 1 / num_classes, reason
        if images is None:
            lacking = reason or _NO_LABELS
        elif means is not None:
            is_left_out = kind == crops
            measure = own_class_share_left_out if is_left_out else own_class_share
            share = measure(images.features, images.labels, means)
            chance = most_frequent_share(images.labels)
        count = "" if images is None else f"{len(images.labels)} "
        own = {
            "samples": "samples whose nearest class mean is that of the class they were drawn for",
            "validation": f"validation crops whose nearest class mean is their own class{left_out}",
        }[kind]
        ceiling = {
            "samples": "The same share of the validation crops is its ceiling.",
            "validation": "It is the ceiling of the share of samples.",
        }[kind]
        guess = f" Always naming the most frequent of their classes gives {chance:.4g}."
        protocol = f"Share of {count}{own}: {space}.{'' if share is None else guess} {ceiling}"
        undefined = f"Undefined here ({lacking}). " if lacking else ""
        metrics[f"{kind}_own_class"] = metric_entry(
            label, share, undefined + protocol, chance=chance, facts=facts or None
        )
    return metrics


def nearest_training_metrics(
    queries: Mapping[str, Iterable[Shaped[ndarray, "b d"]]],
    training: Iterable[Shaped[ndarray, "b d"]],
    num_training: int,
    config: EvaluateRun,
) -> Metrics:
    """Median distance of samples, of validation crops and of decoded training crops to the nearest training crop in
    feature space; `queries` are their features as SAMPLES, VALIDATION and, where a tokenizer decoded some, DECODED, and
    all come in blocks.
    """
    distances = {kind: nearest_distances(features, training) for kind, features in queries.items()}
    counts = {kind: len(found) for kind, found in distances.items()}
    side, drawn = config.feature_size, "drawn by the seed" if config.training_images else "all"
    space = (
        f"Euclidean distance of pooled {EfficientNetLite0Features.name} features, images resized to {side} x {side}, "
        f"to the nearest of {num_training} training crops ({drawn})"
    )
    protocols = {
        SAMPLES: f"Median over {counts[SAMPLES]} samples of the {space}. A median far below that of the "
        "validation crops means that samples are copies of training images, or that they lack detail, which brings "
        "them nearer to all images.",
        VALIDATION: f"Median over {counts[VALIDATION]} validation crops of the {space}. They are real and "
        "were never trained on, so samples that are no copies lie about as far.",
        DECODED: f"Median over {counts.get(DECODED)} of these training crops, drawn by the seed, encoded and decoded "
        f"by the tokenizer, of the {space}. Samples pass the same decoder, so one that is a copy of a training crop "
        "lies about as far, and not at 0.",
    }
    labels = {
        SAMPLES: "Nearest training crop of samples",
        VALIDATION: "Nearest training crop of validation crops",
        DECODED: "Nearest training crop of decoded training crops",
    }
    reference = "training crops" if drawn == "all" else f"training crops {drawn}"
    return {
        f"{kind}_nearest_training": metric_entry(
            labels[kind],
            float(np.median(found)),
            protocols[kind],
            facts={
                "num_images": counts[kind],
                "reference": reference,
                "reference_images": num_training,
            },
        )
        for kind, found in distances.items()
    }


def _outside(given: Mapping[str, Labelled], num_classes: int) -> str:
    """Whose labels are none of the classes; empty where all are."""
    for kind, images in given.items():
        found = images.labels
        if not 0 <= found.min() <= found.max() < num_classes:
            return f"labels of the {_named(kind)} reach from {found.min()} to {found.max()}"
    return ""


def _of_classes(images: Labelled, chosen: Bool[ndarray, " classes"]) -> Labelled:
    """The images of the chosen classes, which are numbered anew."""
    if chosen.all():
        return images
    mask = chosen[images.labels]
    numbers = np.cumsum(chosen) - 1
    return Labelled(_Chosen(images.features, mask), numbers[images.labels[mask]])


def _undefined_reason(
    chosen: Mapping[str, Labelled], has_mean: Bool[ndarray, " classes"], lack: str
) -> str:
    """Why the shares of the `chosen` images have no value; empty where they have one."""
    few, total = int((~has_mean).sum()), len(has_mean)
    lacking = f"{few} of {total} classes have {lack}, the first is class {np.argmin(has_mean)}"
    if has_mean.sum() < min(2, total):
        return lacking
    empty = [_named(kind) for kind, images in chosen.items() if not len(images.labels)]
    return f"{lacking}, and no other has {' or '.join(empty)}" if empty else ""


def _named(kind: str) -> str:
    return kind if kind == "samples" else f"{kind} crops"
