"""How evenly the tokens of a codebook fill their space (Table 3): its code vectors, and what residual learning makes of
them.

The paper measures quantized latents, "Z-hat of the semantic branch". Residual learning adds a prediction to each of
them (Eqs. 8 and 11), and the decoder sees the sum. Read next: glotok_ray/metrics/uniformity.py
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.metrics.blocks import rows_of
from glotok_ray.metrics.uniformity import (
    UndefinedDensityError,
    Uniformity,
    draw_latent_vectors,
    drawn_places,
    tsne_perplexity,
    tsne_uniformity,
)
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.tokenizer import load_glotok_tokenizer
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

Lookup = Literal["cosine", "euclidean"]
CodeBlocks = Iterable[Int[ndarray, "b positions"]]

TSNE = "t-SNE and kernel density"
"""Method of Table 3, in facts."""
VECTORS = {
    "cosine": "the codes' unit vectors, which cosine look-up compares",
    "euclidean": "the codebook's rows as they are, which Euclidean look-up compares",
}
UNIFORMITY = {
    "density_cv": ("Density CV", "standard deviation over mean of the density; lower is more even"),
    "normalized_entropy": (
        "Density entropy",
        "normalised entropy of the density; higher is more even",
    ),
    "gini": ("Density Gini", "Gini coefficient of the density; lower is more even"),
}
"""Labels and meanings of the fields of `Uniformity`."""
# Images whose residuals are predicted at once; always as many, since sums round by the size of a batch.
_IMAGES_AT_ONCE = 64


class RefinedDraw(NamedTuple):
    """A draw of Table 3 behind the residual predictor: one token of each drawn image."""

    tokenizer_path: str
    branch: str
    codes: Int[ndarray, "n positions"]
    """All codes of the drawn images, which the predictor looks at together."""
    positions: Int[ndarray, " n"]


Draw = Float[ndarray, "n d"] | RefinedDraw
DrawUniformity = Callable[[Sequence[Draw]], list[Uniformity | str]]
"""`tsne_draw` of every draw, in order, at once or one after another."""


def drawn_uniformity(
    model: GloTokTokenizer,
    codes: CodeBlocks,
    config: EvaluateRun,
    draw_uniformity: DrawUniformity,
    reason: str,
) -> Metrics:
    """Table 3's metrics of the tokens of the last codebook, the semantic one, before the residual predictor and, where
    the tokenizer has one, behind it; `reason` says why there are none, and is empty otherwise.
    """
    branch, repeats = model.config.names[-1], config.uniformity_repeats
    quantizer = model.quantizer(branch)
    num_images = sum(len(block) for block in codes)
    num_vectors = min(config.uniformity_vectors, num_images)
    is_refined = model.config.residual.enabled
    found: list[Uniformity | str] = [reason] if reason else []
    behind = found
    if not reason:
        vectors = quantizer.matched_codes().double().numpy()
        draws: list[Draw] = [*_latent_draws(codes, vectors, config)]
        if is_refined:
            draws += _refined_draws(codes, num_images, branch, config)
        logger.info("uniformity: %d t-SNE draws of %d vectors", len(draws), num_vectors)
        answers = draw_uniformity(draws)
        found, behind = answers[:repeats], answers[repeats:]
    metrics = uniformity_metrics(branch, found, num_vectors, quantizer.lookup)
    if is_refined:
        metrics |= refined_uniformity_metrics(branch, behind, num_vectors)
    return metrics


def _latent_draws(codes: CodeBlocks, vectors: ndarray, config: EvaluateRun) -> list[ndarray]:
    """The vectors of each draw of Table 3."""
    return [
        draw_latent_vectors(
            codes, vectors, num_vectors=config.uniformity_vectors, seed=config.seed, repeat=repeat
        )
        for repeat in range(config.uniformity_repeats)
    ]


def _refined_draws(
    codes: CodeBlocks, num_images: int, branch: str, config: EvaluateRun
) -> list[RefinedDraw]:
    """The same images and positions as those of `_latent_draws`."""
    num_positions = next(iter(codes)).shape[1]
    draws = []
    for repeat in range(config.uniformity_repeats):
        places = drawn_places(
            num_images,
            num_positions,
            num_vectors=config.uniformity_vectors,
            seed=config.seed,
            repeat=repeat,
        )
        rows = rows_of(codes, places.images)
        draws.append(RefinedDraw(config.tokenizer_path, branch, rows, places.positions))
    return draws


def tsne_draw(draw: Draw) -> Uniformity | str:
    """Table 3's metrics of one draw; the reason in their place where there are none."""
    try:
        return tsne_uniformity(refined_vectors(draw) if isinstance(draw, RefinedDraw) else draw)
    except UndefinedDensityError as error:  # collapsed onto too few codes
        return str(error)


def refined_vectors(draw: RefinedDraw) -> Float[ndarray, "n d"]:
    """The drawn tokens behind the residual predictor, standardised per channel over all tokens of the drawn images."""
    model = load_glotok_tokenizer(to_path(draw.tokenizer_path))
    total = squares = np.zeros(())
    chosen = []
    for start in range(0, len(draw.codes), _IMAGES_AT_ONCE):
        some = slice(start, start + _IMAGES_AT_ONCE)
        refined = _refined(model, draw.branch, draw.codes[some])
        total = total + refined.sum(axis=(0, 1))
        squares = squares + (refined**2).sum(axis=(0, 1))
        chosen.append(refined[np.arange(len(refined)), draw.positions[some]])
    mean = total / draw.codes.size
    deviation = np.sqrt(np.maximum(squares / draw.codes.size - mean**2, 0.0))
    return (np.concatenate(chosen) - mean) / np.where(deviation > 0, deviation, 1.0)


@torch.inference_mode()
def _refined(
    model: GloTokTokenizer, branch: str, codes: Int[ndarray, "b positions"]
) -> Float[ndarray, "b positions d"]:
    side = model.config.autoencoder.grid_size
    grids = torch.from_numpy(codes.astype(np.int64)).unflatten(1, (side, side))
    vectors = model.quantizer(branch).code_vectors(grids)
    refined = vectors + model.branches[branch].predicted_residual(vectors)  # type: ignore[operator]
    return refined.flatten(2).transpose(1, 2).double().numpy()


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


def uniformity_metrics(
    branch: str, draws: Sequence[Uniformity | str], num_vectors: int, lookup: Lookup
) -> Metrics:
    """Table 3's metrics, mean and deviation over draws; null, with the reason, when a draw is one instead."""
    method = _method(
        f"{num_vectors} quantized {branch} vectors ({VECTORS[lookup]}), one per validation "
        "crop at a random position, before the residual predictor, standardised per channel",
        num_vectors,
        len(draws),
    )
    return _entries(f"{branch}_tsne", "(Table 3)", draws, method, num_vectors)


def refined_uniformity_metrics(
    branch: str, draws: Sequence[Uniformity | str], num_vectors: int
) -> Metrics:
    """The same of the same tokens behind the residual predictor."""
    method = _method(
        f"{num_vectors} quantized {branch} vectors to which the predicted residual is added (Eqs. 8 and 11; what the "
        "decoder sees), at the same crops and positions as before it, standardised per channel over all tokens of the "
        "drawn crops",
        num_vectors,
        len(draws),
    )
    label = "after the residual (Table 3's method)"
    return _entries(f"{branch}_tsne_refined", label, draws, method, num_vectors)


def _method(what: str, num_vectors: int, num_draws: int) -> str:
    return (
        f"t-SNE (perplexity {tsne_perplexity(num_vectors):.3g}, PCA start, learning rate auto) and "
        f"Gaussian kernel density of {what}; mean over {num_draws} draws, ± is their deviation."
    )


def _entries(
    name: str, label: str, draws: Sequence[Uniformity | str], method: str, num_vectors: int
) -> Metrics:
    known = [draw for draw in draws if not isinstance(draw, str)]
    reasons = [draw for draw in draws if isinstance(draw, str)] or ([] if draws else ["no draw"])
    if reasons:
        method = f"undefined here ({reasons[0]}, in {len(reasons)} of {len(draws)} draws); {method}"
        known = []
    found: Metrics = {}
    for field, (title, meaning) in UNIFORMITY.items():
        values = [getattr(draw, field) for draw in known]
        mean = float(np.mean(values)) if values else None
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found[f"{name}_{field}"] = metric_entry(
            f"{title} {label}",
            mean,
            f"{as_sentence(meaning)}: {method}",
            deviation,
            facts={"network": TSNE, "num_vectors": num_vectors, "draws": len(draws)},
        )
    return found


def as_sentence(text: str) -> str:
    """The text with a capital letter in front."""
    return text[0].upper() + text[1:]
