"""From arrays to named metrics, each with the sentence that says how it was obtained.

A metric without its protocol cannot be compared with another, so the two are written together.
Read next: glotok_ray/stages/evaluate_images.py
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

from glotok_ray.metrics.codebook import codebook_use
from glotok_ray.metrics.frechet import frechet_distance_of_features
from glotok_ray.metrics.reconstruction import ScoreSum
from glotok_ray.metrics.uniformity import (
    UndefinedDensityError,
    Uniformity,
    code_uniformity,
    tsne_perplexity,
)

Metrics = dict[str, dict[str, Any]]
Lookup = Literal["cosine", "euclidean"]

_VECTORS = {
    "cosine": "the codes' unit vectors, which cosine look-up compares",
    "euclidean": "the codebook's rows as they are, which Euclidean look-up compares",
}

_USE = {
    "usage": ("Usage", "share of the {n} codes that occur at least once"),
    "perplexity": ("Perplexity", "exp of the entropy of the code distribution; {n} is even use"),
    "entropy_bits": ("Entropy (bits)", "entropy of the code distribution; the ceiling is {bits}"),
    "normalized_entropy": ("Normalised entropy", "entropy over its ceiling; 1 is even use"),
    "gini": ("Gini", "Gini coefficient of the {n} code counts; 0 is even use"),
    "dead_codes": ("Dead codes", "codes of {n} that never occur"),
}
_UNIFORMITY = {
    "density_cv": ("Density CV", "standard deviation over mean of the density; lower is more even"),
    "normalized_entropy": (
        "Density entropy",
        "normalised entropy of the density; higher is more even",
    ),
    "gini": ("Density Gini", "Gini coefficient of the density; lower is more even"),
}


def metric_entry(
    label: str, value: float | None, protocol: str, deviation: float | None = None
) -> dict[str, Any]:
    """One entry of metrics.json; a value that is not finite becomes null, which JSON can hold, and the protocol then
    begins with what it was. Who passes None says why in the protocol.
    """
    finite = value is not None and math.isfinite(value)
    if value is not None and not finite:
        protocol = f"Undefined here (the value is {value}). {protocol}"
    entry: dict[str, Any] = {
        "label": label,
        "value": value if finite else None,
        "protocol": protocol,
    }
    if finite and deviation is not None:
        entry["std"] = deviation
    return entry


def with_crops(metrics: Metrics, crops: str) -> Metrics:
    """The metrics, each with a sentence in its protocol on what its validation crops are (`recorded.crops_text`)."""
    return {
        name: {**entry, "protocol": f"{entry['protocol']} The validation crops are {crops}."}
        for name, entry in metrics.items()
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


def frechet_metric(
    label: str,
    features: Shaped[ndarray, "n d"],
    reference: Shaped[ndarray, "m d"],
    *,
    what: str,
    feature_size: int,
) -> dict[str, Any]:
    """Frechet distance of one set of EfficientNet-Lite0 features to the validation crops."""
    protocol = (
        "Frechet distance between the pooled EfficientNet-Lite0 features of "
        f"{len(features)} {what} and of {len(reference)} validation crops "
        f"({reference.shape[1]} features, images resized to {feature_size} x {feature_size}); "
        "lower is closer. It is not FID, which is defined by Inception, and it depends on both "
        "counts."
    )
    if min(len(features), len(reference)) < 2:
        return metric_entry(label, None, f"Undefined below 2 images a side. {protocol}")
    return metric_entry(label, frechet_distance_of_features(features, reference), protocol)


def undefined_reason(
    counts: Int[ndarray, " n"], vectors: Float[ndarray, "n d"], lookup: Lookup
) -> str:
    """Why the evenness of a codebook's tokens cannot be measured on its vectors; empty where it can.

    A used row of zeros is a vector among others by distance, but has no direction, which cosine look-up compares.
    """
    zeros = np.flatnonzero((counts > 0) & (np.abs(vectors).max(axis=1) == 0))
    if lookup == "euclidean" or not len(zeros):
        return ""
    return f"the row of code {zeros[0]}, one of {len(zeros)} such codes in use, is zero and has no direction"


def codebook_metrics(
    branch: str, counts: Int[ndarray, " n"], vectors: Float[ndarray, "n d"], lookup: Lookup
) -> Metrics:
    """Use of one codebook and the evenness of its tokens, both from the code counts alone.

    `vectors` are what the codebook's `lookup` compares and the decoder sees, `VectorQuantizer.matched_codes`. Raises
    ValueError for those that are not finite.
    """
    tokens = int(counts.sum())
    facts = {"n": len(counts), "bits": f"{np.log2(len(counts)):.3g}"}
    source = f"{tokens} {branch} tokens of the validation crops"
    found: Metrics = {}
    for name, value in codebook_use(counts)._asdict().items():
        label, meaning = _USE[name]
        protocol = f"{_sentence(meaning.format(**facts))}, over {source}."
        found[f"{branch}_{name}"] = metric_entry(label, value, protocol)
    method = (
        f"leave-one-out Gaussian kernel density of {_VECTORS[lookup]} in whitened code space, bandwidth "
        f"10000^(-1/(d+4)), no projection, over {source}; this project's companion to Table 3, "
        "not the paper's measure."
    )
    spread: Uniformity | None = None
    reason = undefined_reason(counts, vectors, lookup)
    if not reason:
        try:
            spread = code_uniformity(counts, vectors)
        except UndefinedDensityError as error:
            reason = str(error)
    if reason:
        method = f"undefined here ({reason}); {method}"
    for name, (label, meaning) in _UNIFORMITY.items():
        value = None if spread is None else getattr(spread, name)
        found[f"{branch}_count_{name}"] = metric_entry(
            f"{label} (from counts)", value, f"{_sentence(meaning)}: {method}"
        )
    return found


def uniformity_metrics(
    branch: str, draws: Sequence[Uniformity | str], num_vectors: int, lookup: Lookup
) -> Metrics:
    """Table 3's metrics, mean and deviation over draws; null, with the reason, when a draw is one instead."""
    method = (
        f"t-SNE (perplexity {tsne_perplexity(num_vectors):.3g}, PCA start, learning rate auto) and "
        f"Gaussian kernel density of {num_vectors} quantized {branch} vectors ({_VECTORS[lookup]}), one per validation "
        "crop at a random position, before the residual predictor, standardised per channel; mean "
        f"over {len(draws)} draws, ± is their deviation."
    )
    known = [draw for draw in draws if not isinstance(draw, str)]
    reasons = [draw for draw in draws if isinstance(draw, str)] or ([] if draws else ["no draw"])
    if reasons:
        method = f"undefined here ({reasons[0]}, in {len(reasons)} of {len(draws)} draws); {method}"
        known = []
    found: Metrics = {}
    for name, (label, meaning) in _UNIFORMITY.items():
        values = [getattr(draw, name) for draw in known]
        mean = float(np.mean(values)) if values else None
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found[f"{branch}_tsne_{name}"] = metric_entry(
            f"{label} (Table 3)", mean, f"{_sentence(meaning)}: {method}", deviation
        )
    return found


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
