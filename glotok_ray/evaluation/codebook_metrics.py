"""Metrics of codebooks: how many codes occur and how evenly, and how evenly tokens fill the code space (Table 3).

Read next: glotok_ray/metrics/uniformity.py
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.losses import RelationConfig
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.metrics.codebook import codebook_use, count_blocks, duplicate_fraction
from glotok_ray.metrics.uniformity import (
    UndefinedDensityError,
    Uniformity,
    code_uniformity,
    draw_latent_vectors,
    tsne_perplexity,
    tsne_uniformity,
)
from glotok_ray.pretrained.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

Lookup = Literal["cosine", "euclidean"]
CodeBlocks = Iterable[Int[ndarray, "b positions"]]
DrawUniformity = Callable[[Sequence[Float[ndarray, "n d"]]], list[Uniformity | str]]
"""`tsne_draw` of every set of vectors, in order, at once or one after another."""

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


def code_metrics(
    codes: Mapping[str, CodeBlocks], config: EvaluateRun, draw_uniformity: DrawUniformity
) -> Metrics:
    """Use and evenness of every codebook; Table 3's measure of the last, which is the semantic one.

    `codes` are those of all images under their codebook's name; they come in blocks.
    """
    model = load_tokenizer(Path(config.tokenizer_path))
    metrics: Metrics = {}
    for branch in model.config.names:
        quantizer = model.quantizer(branch)
        vectors = quantizer.matched_codes().double().numpy()
        counts = count_blocks(codes[branch], len(vectors))
        metrics |= codebook_metrics(branch, counts, vectors, quantizer.lookup)
        if branch == model.config.names[-1] and config.uniformity_repeats > 0:
            num_images = int(counts.sum()) // model.config.num_tokens
            num_vectors = min(config.uniformity_vectors, num_images)
            reason = undefined_reason(counts, vectors, quantizer.lookup)
            draws: list[Uniformity | str] = [reason]
            if not reason:
                logger.info(
                    "uniformity: %d t-SNE draws of %d vectors",
                    config.uniformity_repeats,
                    num_vectors,
                )
                draws = draw_uniformity(_latent_draws(codes[branch], vectors, config))
            metrics |= uniformity_metrics(branch, draws, num_vectors, quantizer.lookup)
    return metrics


def _latent_draws(codes: CodeBlocks, vectors: ndarray, config: EvaluateRun) -> list[ndarray]:
    """The vectors of each draw of Table 3."""
    return [
        draw_latent_vectors(
            codes, vectors, num_vectors=config.uniformity_vectors, seed=config.seed, repeat=repeat
        )
        for repeat in range(config.uniformity_repeats)
    ]


def tsne_draw(vectors: Float[ndarray, "n d"]) -> Uniformity | str:
    """Table 3's metrics of one draw; the reason in their place where there are none."""
    try:
        return tsne_uniformity(vectors)
    except UndefinedDensityError as error:  # collapsed onto too few codes
        return str(error)


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
    found[f"{branch}_duplicates"] = _duplicates(branch, vectors, lookup)
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


def _duplicates(branch: str, vectors: Float[ndarray, "n d"], lookup: Lookup) -> dict[str, Any]:
    cosine = RelationConfig().duplicate_cosine
    near = {
        "cosine": f"a cosine of at least {cosine:g}",
        "euclidean": f"a squared distance of at most {2 * (1 - cosine):.2g} times the codes' mean squared distance "
        "from their mean",
    }
    return metric_entry(
        "Duplicates",
        duplicate_fraction(torch.from_numpy(vectors), cosine, lookup),
        f"Share of all {len(vectors)} {branch} codes, used or not, that have another one nearby: {near[lookup]}.",
    )


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
