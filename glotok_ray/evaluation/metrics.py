"""The metrics of an evaluation, computed once from what lies in its parts: features are read block by block.

Reconstructions are measured by PSNR, SSIM, codebook usage and FD-EffNet; samples by FD-EffNet, beside images decoded
from codes that no generator chose (paper section 4). Read next: glotok_ray/evaluation/codebook_metrics.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.array_names import (
    EFFNET_POOLED,
    LABELS,
    of_reconstructions,
    retention_psnr,
)
from glotok_ray.evaluation.codebook_metrics import DrawUniformity, code_metrics
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.evaluation.files import BASELINES
from glotok_ray.evaluation.generator_loss import LOSS, SHUFFLED, UNLEARNED
from glotok_ray.evaluation.generator_metrics import generator_loss_metrics
from glotok_ray.evaluation.plan import SAMPLES, TRAINING, VALIDATION
from glotok_ray.evaluation.sample_metrics import (
    Labelled,
    nearest_training_metrics,
    own_class_metrics,
)
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.metrics.frechet import (
    FeatureSummary,
    frechet_distance_of_summaries,
    summarize,
)
from glotok_ray.metrics.reconstruction import ScoreSum
from glotok_ray.pretrained.tokenizer import tokenizer_config

_DISTANCES = {
    "reconstruction": "FD-EffNet",
    "samples": "FD-EffNet of samples",
    "baseline_uniform": "FD-EffNet of uniform codes",
    "baseline_marginal": "FD-EffNet of marginal codes",
    "validation": "FD-EffNet of validation crops",
}


def metrics_of(
    measured: Mapping[str, MeasuredImages],
    config: EvaluateRun,
    image_size: int,
    draw_uniformity: DrawUniformity,
    *,
    num_classes: int,
) -> Metrics:
    """Every metric that the measured images allow; the labels among them count from 0 to `num_classes`."""
    validation = measured[VALIDATION]
    metrics: Metrics = {}
    if config.tokenizer_path:
        metrics |= reconstruction_metrics(
            {name: validation.column(name) for name in ("psnr", "ssim")}, image_size
        )
        names = tokenizer_config(Path(config.tokenizer_path)).names
        alone = {name: retention_psnr(name) for name in names if retention_psnr(name) in validation}
        scores = {entry: validation.column(entry) for entry in alone.values()}
        metrics |= retention_metrics(scores, list(alone))
    metrics |= _distances(measured, config)
    training = measured.get(TRAINING)
    if SAMPLES in measured:
        metrics |= own_class_metrics(
            _labelled(measured[SAMPLES]),
            _labelled(validation),
            None if training is None else _labelled(training),
            num_classes,
            config.feature_size,
        )
    if training is not None:
        metrics |= nearest_training_metrics(
            {kind: measured[kind].blocks(EFFNET_POOLED) for kind in (SAMPLES, VALIDATION)},
            training.blocks(EFFNET_POOLED),
            training.count,
            config,
        )
    if config.generator_path:
        losses = {name: validation.column(name) for name in (LOSS, SHUFFLED, UNLEARNED)}
        metrics |= generator_loss_metrics(losses, config)
    if config.tokenizer_path:
        names = tokenizer_config(Path(config.tokenizer_path)).names
        codes = {name: validation.blocks(name) for name in names}
        metrics |= code_metrics(codes, config, draw_uniformity)
    return metrics


def _labelled(images: MeasuredImages) -> Labelled:
    return Labelled(images.blocks(EFFNET_POOLED), images.column(LABELS))


class _Summarized(NamedTuple):
    """A set of images, as a Frechet distance needs it, and what they are."""

    summary: FeatureSummary
    what: str


def _distances(measured: Mapping[str, MeasuredImages], config: EvaluateRun) -> Metrics:
    """Frechet distances to the validation crops and, as in ADM's protocol, of all that a generator made to the training
    crops; each set is summarized once.
    """
    reconstructed, made = {}, {}
    if config.tokenizer_path:
        features = measured[VALIDATION].blocks(of_reconstructions(EFFNET_POOLED))
        reconstructed["reconstruction"] = _Summarized(
            summarize(features), "reconstructions of the same crops"
        )
    texts = {SAMPLES: "samples of the generator"} | {
        name: f"images that the same decoder makes of {text}" for name, text in BASELINES.items()
    }
    for name, text in texts.items():
        if name in measured:
            made[name] = _Summarized(summarize(measured[name].blocks(EFFNET_POOLED)), text)
    metrics: Metrics = {}
    if reconstructed or made:
        real = summarize(measured[VALIDATION].blocks(EFFNET_POOLED))
        metrics |= _frechet_metrics(reconstructed | made, real, config)
        if TRAINING in measured:
            training = summarize(measured[TRAINING].blocks(EFFNET_POOLED))
            crops = {VALIDATION: _Summarized(real, "validation crops")}
            metrics |= _frechet_metrics(made | crops, training, config, training=True)
    return metrics


def _frechet_metrics(
    found: Mapping[str, _Summarized],
    reference: FeatureSummary,
    config: EvaluateRun,
    *,
    training: bool = False,
) -> Metrics:
    """Distances of sets of features to the validation crops or to the training crops."""
    suffix, addition = ("_training", ", from training crops") if training else ("", "")
    return {
        f"{name}_fd_effnet{suffix}": frechet_metric(
            _DISTANCES[name] + addition,
            summary,
            reference,
            what=what,
            crops="training crops" if training else "validation crops",
            network=EfficientNetLite0Features.name,
            feature_size=config.feature_size,
        )
        for name, (summary, what) in found.items()
    }


def reconstruction_metrics(scores: dict[str, Float[ndarray, " n"]], image_size: int) -> Metrics:
    """Means of "psnr" and "ssim" over the images of the validation set."""
    psnr, ssim = ScoreSum.of(scores["psnr"]), ScoreSum.of(scores["ssim"])
    pairs = f"{len(scores['psnr'])} validation crops of {image_size} x {image_size} pixels"
    psnr_protocol = (
        f"Mean over {pairs} of 10 log10(255^2 / MSE) on 8-bit RGB, per image; {psnr.num_infinite} "
        "identical pairs left out; decoded from codes through the residual predictors; "
        "± is the deviation over images."
    )
    ssim_protocol = (
        f"Mean over {pairs} of Wang's SSIM on 8-bit RGB (Gaussian window 11 x 11, sigma 1.5, "
        "population covariance, range 255); ± is the deviation over images."
    )
    return {
        "reconstruction_psnr": metric_entry(
            "PSNR (dB)", psnr.mean, psnr_protocol, psnr.standard_deviation
        ),
        "reconstruction_ssim": metric_entry(
            "SSIM", ssim.mean, ssim_protocol, ssim.standard_deviation
        ),
    }


def retention_metrics(scores: Mapping[str, Float[ndarray, " n"]], names: Sequence[str]) -> Metrics:
    """Mean PSNR of the validation crops decoded from each codebook alone; `scores` are "retention_NAME_psnr" of all
    `names`.
    """
    metrics: Metrics = {}
    for name in names:
        entry = retention_psnr(name)
        score = ScoreSum.of(scores[entry])
        protocol = (
            f"As the reconstructions' PSNR, over {len(scores[entry])} validation crops that are decoded from the "
            f"{name} codes alone (paper Fig. 4): the features of all other codebooks, codes and predicted residuals, "
            f"are set to 0. {score.num_infinite} identical pairs left out; ± is the deviation over images."
        )
        metrics[entry] = metric_entry(
            f"PSNR of {name} codes alone (dB)", score.mean, protocol, score.standard_deviation
        )
    return metrics


def frechet_metric(
    label: str,
    features: FeatureSummary,
    reference: FeatureSummary,
    *,
    what: str,
    network: str,
    feature_size: int,
    crops: str = "validation crops",
) -> dict[str, Any]:
    """Frechet distance of one set of `network`'s features to those of `crops`."""
    protocol = (
        f"Frechet distance between the pooled {network} features of "
        f"{features.count} {what} and of {reference.count} {crops} "
        f"({reference.width} features, images resized to {feature_size} x {feature_size}); "
        "lower is closer. It is not FID, which is defined by Inception, and it depends on both "
        "counts."
    )
    if min(features.count, reference.count) < 2:
        return metric_entry(label, None, f"Undefined below 2 images a side. {protocol}")
    return metric_entry(label, frechet_distance_of_summaries(features, reference), protocol)
