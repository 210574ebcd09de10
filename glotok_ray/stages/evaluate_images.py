"""Evaluation on Ray: blocks of images through an actor pool, metrics computed once from the merged
results.

Reconstructions are measured by PSNR, SSIM, code use and FD-EffNet; samples by FD-EffNet, beside
images decoded from codes that no generator chose (paper section 4). Read next:
glotok_ray/evaluation/metrics.py
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glotok_ray.config.jobs import EvaluateRun
from glotok_ray.config.overrides import bound_settings, with_absolute_paths
from glotok_ray.data.recorded import crops_text
from glotok_ray.evaluation import metrics as measures
from glotok_ray.evaluation.files import BASELINES, CODE_COUNTS_FILE, RECONSTRUCTIONS_FILE
from glotok_ray.evaluation.measure import (
    SAMPLES,
    VALIDATION,
    Block,
    BlockMeasurement,
    MeasuredBlock,
)
from glotok_ray.evaluation.metrics import Metrics
from glotok_ray.evaluation.plan import (
    check_inputs,
    check_present_inputs,
    measured_images,
    measured_tokenizer,
    plan,
)
from glotok_ray.metrics.codebook import count_codes
from glotok_ray.metrics.uniformity import (
    UndefinedDensityError,
    Uniformity,
    draw_latent_vectors,
    tsne_uniformity,
)
from glotok_ray.on_ray.actor_pool import actor_device, map_shards
from glotok_ray.on_ray.tasks import run_at_once
from glotok_ray.pretrained.tokenizer import load_tokenizer
from glotok_ray.report import grids
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.output import Unfinished

logger = logging.getLogger(__name__)

KEPT_IMAGES = 32
_GRID_COLUMNS = 8
_DISTANCES = {
    "reconstruction": "FD-EffNet",
    "samples": "FD-EffNet of samples",
    "baseline_uniform": "FD-EffNet of uniform codes",
    "baseline_marginal": "FD-EffNet of marginal codes",
}


class Merged(NamedTuple):
    """All blocks of one kind, in image order."""

    features: np.ndarray
    arrays: dict[str, np.ndarray]


@ownership.holding()
def run(config: EvaluateRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write metrics.json, grids and kept images; returns the manifest, with every metric's value
    under "metrics".

    With an empty samples_path only reconstructions are measured; with an empty tokenizer_path only
    samples.
    """
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    check_inputs(config)
    # Before the output folder is begun: what does not fit must leave everything as it is.
    check_present_inputs(config)
    images = measured_images(config)
    paths = (config.tokenizer_path, config.data_path, config.samples_path, config.codes_path)
    evaluation = output.begin(
        config.output_path,
        "evaluation",
        bound_settings(config),
        [path for path in paths if path],
        fresh=fresh,
        unfinished=Unfinished.REPLACE,
    )
    if evaluation.finished is not None:
        return evaluation.finished
    blocks, image_size = plan(config)
    merged = _measure(blocks, config, image_size)
    metrics = measures.with_crops(metrics_of(merged, config, image_size), crops_text(images))
    _write_images(evaluation.folder, merged)
    _write_counts(evaluation.folder, merged, config)
    artefact.write_json(evaluation.folder / "metrics.json", metrics)
    for name, entry in metrics.items():
        logger.info("%s = %s", name, entry["value"])
    values = {name: entry["value"] for name, entry in metrics.items()}
    return evaluation.finish(metrics=values, num_images=len(merged[VALIDATION].features))


class _EvaluationActor(BlockMeasurement):
    """A measure that takes its device from the actor it lives in."""

    def __init__(self, config: EvaluateRun, *, image_size: int) -> None:
        super().__init__(
            config, image_size=image_size, kept_images=KEPT_IMAGES, device=actor_device(config.pool)
        )


def _measure(blocks: list[Block], config: EvaluateRun, image_size: int) -> dict[str, Merged]:
    sizes = [block.stop - block.start for block in blocks]
    arguments = {"config": config, "image_size": image_size}
    measured = map_shards(
        blocks, _EvaluationActor, arguments, config.pool, stage="evaluate", sizes=sizes
    )
    return merge(measured)


def merge(measured: Iterable[MeasuredBlock]) -> dict[str, Merged]:
    """Results by kind, in the blocks' order."""
    found: dict[str, list[MeasuredBlock]] = {}
    for block in measured:
        found.setdefault(block.kind, []).append(block)
    merged = {}
    for kind, parts in found.items():
        names = parts[0].arrays
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
        merged[kind] = Merged(np.concatenate([part.features for part in parts]), arrays)
    return merged


def metrics_of(merged: dict[str, Merged], config: EvaluateRun, image_size: int) -> Metrics:
    """Every metric that the merged results allow; uniformity draws need a connected Ray."""
    reference = merged[VALIDATION].features
    arrays = merged[VALIDATION].arrays
    metrics: Metrics = {}
    measured = {}
    if config.tokenizer_path:
        metrics |= measures.reconstruction_metrics(
            {name: arrays[name] for name in ("psnr", "ssim")}, image_size
        )
        measured["reconstruction"] = (
            arrays["reconstruction_features"],
            "reconstructions of the same crops",
        )
    if SAMPLES in merged:
        measured["samples"] = (merged[SAMPLES].features, "samples of the generator")
    for name, text in BASELINES.items():
        if name in merged:
            measured[name] = (
                merged[name].features,
                f"images that the same decoder makes of {text}",
            )
    for name, (features, what) in measured.items():
        metrics[f"{name}_fd_effnet"] = measures.frechet_metric(
            _DISTANCES[name], features, reference, what=what, feature_size=config.feature_size
        )
    if config.tokenizer_path:
        metrics |= _code_metrics(arrays, config)
    return metrics


def _code_metrics(arrays: dict[str, np.ndarray], config: EvaluateRun) -> Metrics:
    """Use and evenness of every codebook; Table 3's measure of the last, which is the semantic one."""
    model = load_tokenizer(Path(config.tokenizer_path))
    metrics: Metrics = {}
    for branch in model.config.names:
        quantizer = model.quantizer(branch)
        vectors = quantizer.matched_codes().double().numpy()
        counts = count_codes(arrays[branch], len(vectors))
        metrics |= measures.codebook_metrics(branch, counts, vectors, quantizer.lookup)
        if branch == model.config.names[-1] and config.uniformity_repeats > 0:
            num_vectors = min(config.uniformity_vectors, len(arrays[branch]))
            reason = measures.undefined_reason(counts, vectors, quantizer.lookup)
            draws = [reason] if reason else _tsne_draws(arrays[branch], vectors, config)
            metrics |= measures.uniformity_metrics(branch, draws, num_vectors, quantizer.lookup)
    return metrics


def _tsne_draws(
    codes: np.ndarray, vectors: np.ndarray, config: EvaluateRun
) -> list[Uniformity | str]:
    """One Ray task per draw of Table 3; the reason in place of metrics where there are none."""
    logger.info(
        "uniformity: %d t-SNE draws of %d vectors",
        config.uniformity_repeats,
        min(config.uniformity_vectors, len(codes)),
    )
    draws = [
        draw_latent_vectors(
            codes, vectors, num_vectors=config.uniformity_vectors, seed=config.seed, repeat=repeat
        )
        for repeat in range(config.uniformity_repeats)
    ]
    return run_at_once(_tsne_draw, draws)


def _tsne_draw(vectors: np.ndarray) -> Uniformity | str:
    try:
        return tsne_uniformity(vectors)
    except UndefinedDensityError as error:  # collapsed onto too few codes
        return str(error)


def _write_images(folder: Path, merged: dict[str, Merged]) -> None:
    """Grids for people, arrays for the report."""
    arrays = merged[VALIDATION].arrays
    if "inputs" in arrays:
        inputs, reconstructions = arrays["inputs"], arrays["reconstructions"]
        np.savez(folder / RECONSTRUCTIONS_FILE, inputs=inputs, reconstructions=reconstructions)
        pairs = grids.side_by_side(inputs, reconstructions)
        grids.write_grid(
            folder / "reconstructions.png", pairs, columns=4, title="input | reconstruction"
        )
    baselines = {name: merged[name].arrays["images"] for name in BASELINES if name in merged}
    for name, images in baselines.items():
        np.savez(folder / f"{name}.npz", images=images)
    if baselines:
        rows = [images[:_GRID_COLUMNS] for images in baselines.values()]
        labels = [name.removeprefix("baseline_") for name in baselines]
        grids.write_grid(
            folder / "baselines.png", np.concatenate(rows), columns=len(rows[0]), row_labels=labels
        )


def _write_counts(folder: Path, merged: dict[str, Merged], config: EvaluateRun) -> None:
    """Occurrences of every code in the validation crops, unused codes included."""
    model = measured_tokenizer(config)
    if model:
        arrays = merged[VALIDATION].arrays
        counts = {
            codebook.name: count_codes(arrays[codebook.name], codebook.size)
            for codebook in model.codebooks
        }
        np.savez(folder / CODE_COUNTS_FILE, **counts)  # type: ignore[arg-type]
