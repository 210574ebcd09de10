"""The metrics of an evaluation, computed once from the merged blocks.

Reconstructions are measured by PSNR, SSIM, codebook usage and FD-EffNet; samples by FD-EffNet, beside images decoded
from codes that no generator chose (paper section 4). Read next: glotok_ray/evaluation/codebook_metrics.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Shaped
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.codebook_metrics import DrawUniformity, code_metrics
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.evaluation.files import BASELINES
from glotok_ray.evaluation.generator_metrics import generator_loss_metrics
from glotok_ray.evaluation.measure import Merged
from glotok_ray.evaluation.plan import SAMPLES, TRAINING, VALIDATION
from glotok_ray.evaluation.sample_metrics import nearest_training_metrics, own_class_metrics
from glotok_ray.metrics.frechet import frechet_distance_of_features
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
    merged: dict[str, Merged],
    config: EvaluateRun,
    image_size: int,
    draw_uniformity: DrawUniformity,
    *,
    num_classes: int,
) -> Metrics:
    """Every metric that the merged results allow; the labels among them count from 0 to `num_classes`."""
    reference = merged[VALIDATION].features
    arrays = merged[VALIDATION].arrays
    metrics: Metrics = {}
    measured, made = {}, {}
    if config.tokenizer_path:
        metrics |= reconstruction_metrics(
            {name: arrays[name] for name in ("psnr", "ssim")}, image_size
        )
        names = tokenizer_config(Path(config.tokenizer_path)).names
        metrics |= retention_metrics(
            arrays, [name for name in names if f"retention_{name}_psnr" in arrays]
        )
        measured["reconstruction"] = (
            arrays["reconstruction_features"],
            "reconstructions of the same crops",
        )
    if SAMPLES in merged:
        made["samples"] = (merged[SAMPLES].features, "samples of the generator")
    for name, text in BASELINES.items():
        if name in merged:
            made[name] = (
                merged[name].features,
                f"images that the same decoder makes of {text}",
            )
    metrics |= _frechet_metrics(measured | made, reference, config)
    training = merged.get(TRAINING)
    if SAMPLES in merged:
        metrics |= own_class_metrics(
            merged[SAMPLES], merged[VALIDATION], training, num_classes, config.feature_size
        )
    if training is not None:
        real = {"validation": (reference, "validation crops")}
        metrics |= _frechet_metrics(made | real, training.features, config, training=True)
        metrics |= nearest_training_metrics(
            merged[SAMPLES].features, reference, training.features, config
        )
    if config.generator_path:
        metrics |= generator_loss_metrics(arrays, config)
    if config.tokenizer_path:
        metrics |= code_metrics(arrays, config, draw_uniformity)
    return metrics


def _frechet_metrics(
    measured: Mapping[str, tuple[Shaped[ndarray, "n d"], str]],
    reference: Shaped[ndarray, "m d"],
    config: EvaluateRun,
    *,
    training: bool = False,
) -> Metrics:
    """Distances of sets of features to the validation crops or, as in ADM's protocol, to the training crops."""
    suffix, addition = ("_training", ", from training crops") if training else ("", "")
    return {
        f"{name}_fd_effnet{suffix}": frechet_metric(
            _DISTANCES[name] + addition,
            features,
            reference,
            what=what,
            crops="training crops" if training else "validation crops",
            network=EfficientNetLite0Features.name,
            feature_size=config.feature_size,
        )
        for name, (features, what) in measured.items()
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
        entry = f"retention_{name}_psnr"
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
    features: Shaped[ndarray, "n d"],
    reference: Shaped[ndarray, "m d"],
    *,
    what: str,
    network: str,
    feature_size: int,
    crops: str = "validation crops",
) -> dict[str, Any]:
    """Frechet distance of one set of `network`'s features to those of `crops`."""
    protocol = (
        f"Frechet distance between the pooled {network} features of "
        f"{len(features)} {what} and of {len(reference)} {crops} "
        f"({reference.shape[1]} features, images resized to {feature_size} x {feature_size}); "
        "lower is closer. It is not FID, which is defined by Inception, and it depends on both "
        "counts."
    )
    if min(len(features), len(reference)) < 2:
        return metric_entry(label, None, f"Undefined below 2 images a side. {protocol}")
    return metric_entry(label, frechet_distance_of_features(features, reference), protocol)
