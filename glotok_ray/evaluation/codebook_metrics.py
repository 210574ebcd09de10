"""Metrics of codebooks: how many codes occur and how evenly, and how evenly tokens fill the code space.

Read next: glotok_ray/evaluation/uniformity_metrics.py
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.losses import RelationConfig
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.uniformity_metrics import (
    UNIFORMITY,
    VECTORS,
    CodeBlocks,
    DrawUniformity,
    Lookup,
    as_sentence,
    drawn_uniformity,
    undefined_reason,
)
from glotok_ray.metrics.codebook import codebook_use, count_blocks, duplicate_fraction
from glotok_ray.metrics.uniformity import UndefinedDensityError, Uniformity, code_uniformity
from glotok_ray.nn.tokenizer_protocol import Rate
from glotok_ray.pretrained.tokenizer import load_glotok_tokenizer
from glotok_ray.storage.places import to_path

_USE = {
    "usage": ("Usage", "share of the {n} codes that occur at least once"),
    "perplexity": ("Perplexity", "exp of the entropy of the code distribution; {n} is even use"),
    "entropy_bits": ("Entropy (bits)", "entropy of the code distribution; the ceiling is {bits}"),
    "normalized_entropy": ("Normalised entropy", "entropy over its ceiling; 1 is even use"),
    "gini": ("Gini", "Gini coefficient of the {n} code counts; 0 is even use"),
    "dead_codes": ("Dead codes", "codes of {n} that never occur"),
}


def code_metrics(
    codes: Mapping[str, CodeBlocks], config: EvaluateRun, draw_uniformity: DrawUniformity
) -> Metrics:
    """Use and evenness of every codebook; Table 3's measure of the last, which is the semantic one.

    `codes` are those of all images under their codebook's name; they come in blocks.
    """
    model = load_glotok_tokenizer(to_path(config.tokenizer_path))
    metrics: Metrics = {}
    for branch in model.config.names:
        quantizer = model.quantizer(branch)
        vectors = quantizer.matched_codes().double().numpy()
        counts = count_blocks(codes[branch], len(vectors))
        metrics |= codebook_metrics(branch, counts, vectors, quantizer.lookup)
        if branch == model.config.names[-1] and config.uniformity_repeats > 0:
            reason = undefined_reason(counts, vectors, quantizer.lookup)
            metrics |= drawn_uniformity(model, codes[branch], config, draw_uniformity, reason)
    return metrics


def grid_metrics(codes: Mapping[str, CodeBlocks], rate: Rate) -> Metrics:
    """Use of every grid of another system's tokenizer, by the grid's name; grids may share a codebook."""
    metrics: Metrics = {}
    for (name, blocks), grid in zip(codes.items(), rate.grids, strict=True):
        metrics |= use_metrics(name, count_blocks(blocks, grid.num_codes))
    return metrics


def codebook_metrics(
    branch: str, counts: Int[ndarray, " n"], vectors: Float[ndarray, "n d"], lookup: Lookup
) -> Metrics:
    """Use of one codebook and the evenness of its tokens, both from the code counts alone.

    `vectors` are what the codebook's `lookup` compares and the decoder sees, `VectorQuantizer.matched_codes`. Raises
    ValueError for those that are not finite.
    """
    tokens = int(counts.sum())
    counted = {"tokens": tokens, "codes": len(counts)}
    source = _source(branch, counts)
    found = use_metrics(branch, counts)
    found[f"{branch}_duplicates"] = _duplicates(branch, vectors, lookup)
    method = (
        f"leave-one-out Gaussian kernel density of {VECTORS[lookup]} in whitened code space, bandwidth "
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
    for name, (label, meaning) in UNIFORMITY.items():
        value = None if spread is None else getattr(spread, name)
        found[f"{branch}_count_{name}"] = metric_entry(
            f"{label} (from counts)", value, f"{as_sentence(meaning)}: {method}", facts=counted
        )
    return found


def use_metrics(branch: str, counts: Int[ndarray, " n"]) -> Metrics:
    """How many codes of one codebook or grid occur, and how evenly."""
    facts = {"n": len(counts), "bits": f"{np.log2(len(counts)):.3g}"}
    counted = {"tokens": int(counts.sum()), "codes": len(counts)}
    found: Metrics = {}
    for name, value in codebook_use(counts)._asdict().items():
        label, meaning = _USE[name]
        protocol = f"{as_sentence(meaning.format(**facts))}, over {_source(branch, counts)}."
        found[f"{branch}_{name}"] = metric_entry(label, value, protocol, facts=counted)
    return found


def _source(branch: str, counts: Int[ndarray, " n"]) -> str:
    return f"{int(counts.sum())} {branch} tokens of the validation crops"


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
