"""Frechet distances in every feature network of an evaluation: of reconstructions, samples, baselines and real crops.

What a distance is called follows from its network: FID and sFID are of Inception alone. Read next:
glotok_ray/evaluation/inception_metrics.py
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.array_names import array_name, of_reconstructions
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.extractors import DINOV2, EFFNET, INCEPTION, Network
from glotok_ray.evaluation.features import POOLED, SPATIAL
from glotok_ray.evaluation.files import BASELINES
from glotok_ray.evaluation.kept_features import summary_of
from glotok_ray.evaluation.plan import REFERENCE, SAMPLES, TRAINING, VALIDATION
from glotok_ray.evaluation.reference import Gaussian, Reference
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.metrics.frechet import (
    FeatureSummary,
    frechet_distance_of_summaries,
    frechet_distance_to,
    rank_warning,
    summarize,
)

logger = logging.getLogger(__name__)

ADM_STATISTICS = "ADM's statistics of the training set"
_ADM_FILES = ("VIRTUAL_imagenet256_labeled.npz", "adm_in256_stats.npz")
_OF = {
    "reconstruction": "",
    "samples": " of samples",
    "baseline_uniform": " of uniform codes",
    "baseline_marginal": " of marginal codes",
    "validation": " of validation crops",
}
_WHAT = {
    "reconstruction": "reconstructions of the same crops",
    "samples": "samples of the generator",
    "validation": "validation crops",
} | {name: f"images that the same decoder makes of {text}" for name, text in BASELINES.items()}


class Distance(NamedTuple):
    """A Frechet distance: of which features, and how it is called."""

    output: str
    name: str
    """In names of metrics."""
    title: str
    remark: str = ""


_NO_FID = "It is not FID, which is defined by Inception, and it"
DISTANCES: Mapping[str, Sequence[Distance]] = {
    EFFNET: [Distance(POOLED, "fd_effnet", "FD-EffNet", _NO_FID)],
    INCEPTION: [Distance(POOLED, "fid", "FID"), Distance(SPATIAL, "sfid", "sFID")],
    DINOV2: [Distance(POOLED, "fd_dinov2", "FD-DINOv2", _NO_FID)],
}
"""By the key of the network."""


class Side(NamedTuple):
    """The images that others are compared with, and how metrics name them."""

    suffix: str
    """Of the metric's name."""
    addition: str
    """To the metric's label."""
    crops: str
    """What they are, in protocols."""


TO_VALIDATION = Side("", "", "validation crops")
TO_TRAINING = Side("_training", ", from training crops", "training crops")
"""As ADM's evaluator compares samples."""


def distance_metrics(
    measured: Mapping[str, MeasuredImages],
    config: EvaluateRun,
    networks: Sequence[Network],
    reference: Reference | None = None,
) -> Metrics:
    """Distances to the validation crops, of all that a generator made to the training crops, and of samples to
    published statistics; each set of images is summarized once per network.
    """
    metrics: Metrics = {}
    for network in networks:
        for distance in DISTANCES[network.key]:
            published = reference if network.key == INCEPTION else None
            metrics |= _of_network(measured, config, network, distance, published)
    return metrics


def _of_network(
    measured: Mapping[str, MeasuredImages],
    config: EvaluateRun,
    network: Network,
    distance: Distance,
    published: Reference | None,
) -> Metrics:
    array = array_name(network.key, distance.output)
    reconstructed = (
        {"reconstruction": summarize(measured[VALIDATION].blocks(of_reconstructions(array)))}
        if config.tokenizer_path
        else {}
    )
    made = {
        name: summarize(measured[name].blocks(array))
        for name in (SAMPLES, *BASELINES)
        if name in measured
    }
    if not reconstructed and not made:
        return {}
    real = summary_of(measured[VALIDATION], array)
    metrics = _distances(reconstructed | made, real, network, distance, TO_VALIDATION)
    if TRAINING in measured and made:
        training = summary_of(measured[TRAINING], array)
        compared = made | {VALIDATION: real}
        metrics |= _distances(compared, training, network, distance, TO_TRAINING)
    if published is not None and SAMPLES in made:
        images = measured.get(REFERENCE)
        if distance.output in published.gaussians:
            metrics |= _to_reference(made[SAMPLES], network, distance, published)
        elif images is not None:
            summary = summary_of(images, array)
            metrics |= _to_images(made[SAMPLES], summary, network, distance, published)
    return metrics


def _distances(
    found: Mapping[str, FeatureSummary],
    reference: FeatureSummary,
    network: Network,
    distance: Distance,
    side: Side,
) -> Metrics:
    return {
        f"{name}_{distance.name}{side.suffix}": frechet_metric(
            distance,
            summary,
            reference,
            label=f"{distance.title}{_OF[name]}{side.addition}",
            what=_WHAT[name],
            crops=side.crops,
            network=network,
        )
        for name, summary in found.items()
    }


def frechet_metric(
    distance: Distance,
    features: FeatureSummary,
    reference: FeatureSummary,
    *,
    label: str,
    what: str,
    network: Network,
    crops: str = TO_VALIDATION.crops,
) -> dict[str, Any]:
    """Frechet distance of one set of `network`'s features to those of `crops`."""
    protocol = _protocol(
        distance, network, features, f"{what} and of {reference.count} {crops}", what
    )
    same = what == _WHAT["reconstruction"]
    facts = network.facts(
        num_images=features.count,
        reference=f"the {'same ' if same else ''}{crops}",
        reference_images=reference.count,
    )
    if min(features.count, reference.count) < 2:
        undefined = f"Undefined below 2 images a side. {protocol}"
        return metric_entry(label, None, undefined, facts=facts)
    value = frechet_distance_of_summaries(features, reference)
    return metric_entry(label, value, protocol, facts=facts)


def _protocol(
    distance: Distance, network: Network, features: FeatureSummary, sides: str, what: str
) -> str:
    remark = distance.remark or "It"
    warning = rank_warning(features.count, features.width, what)
    if warning and network.key == INCEPTION:
        logger.warning("%s: %s", distance.title, warning)
    return (
        f"Frechet distance between the {distance.output} {network.name} features of {features.count} {sides} "
        f"({features.width} features, {network.input_contract}; weights {network.weights_sha256[:12]}); "
        f"lower is closer. {remark} depends on both counts." + (f" {warning}." if warning else "")
    )


def _to_reference(
    features: FeatureSummary, network: Network, distance: Distance, reference: Reference
) -> Metrics:
    """The distance of samples to published statistics, of which the file has those of these features."""
    (name, label), where = _of_reference(distance, reference), reference_text(reference)
    protocol = _protocol(
        distance, network, features, f"{_WHAT[SAMPLES]} and {where}", _WHAT[SAMPLES]
    )
    facts = network.facts(
        num_images=features.count,
        reference=where,
        reference_sha256=reference.sha256,
    )
    if features.count < 2:
        undefined = f"Undefined below 2 images. {protocol}"
        return {name: metric_entry(label, None, undefined, facts=facts)}
    gaussian: Gaussian = reference.gaussian(distance.output)
    value = frechet_distance_to(features, gaussian.mean, gaussian.covariance)
    return {name: metric_entry(label, value, protocol, facts=facts)}


def _to_images(
    features: FeatureSummary,
    images: FeatureSummary,
    network: Network,
    distance: Distance,
    reference: Reference,
) -> Metrics:
    """The distance of samples to the images of a reference without statistics of these features."""
    name, label = _of_reference(distance, reference)
    entry = frechet_metric(
        distance,
        features,
        images,
        label=label,
        what=_WHAT[SAMPLES],
        network=network,
        crops=f"images in {_file_text(reference)}",
    )
    facts = {**entry["facts"], "reference_sha256": reference.sha256}
    return {name: {**entry, "facts": facts}}


def _of_reference(distance: Distance, reference: Reference) -> tuple[str, str]:
    """Name and label of a distance to a reference."""
    name = f"{SAMPLES}_{distance.name}_reference"
    return name, f"{distance.title}{_OF[SAMPLES]}, from {reference.path.name}"


def reference_text(reference: Reference) -> str:
    """A file of published statistics, as protocols name it. ADM's is known by its file's name: no digest of it was
    published.
    """
    if reference.path.name in _ADM_FILES:
        return ADM_STATISTICS
    return f"the statistics in {_file_text(reference)}"


def _file_text(reference: Reference) -> str:
    return f"{reference.path.name} (sha256 {reference.sha256[:12]})"
