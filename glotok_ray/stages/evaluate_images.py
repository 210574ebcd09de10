"""Evaluation on an actor pool: blocks of images are measured by actors, and metrics computed from all of them.

Read next: glotok_ray/evaluation/plan.py
"""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import bound_settings, to_dict, with_absolute_paths
from glotok_ray.data.recorded import crops_text
from glotok_ray.evaluation.codebook_metrics import tsne_draw
from glotok_ray.evaluation.entries import with_crops
from glotok_ray.evaluation.files import (
    BASELINES,
    CODE_COUNTS_FILE,
    RECONSTRUCTIONS_FILE,
    RETENTION_FILE,
)
from glotok_ray.evaluation.inputs import (
    check_inputs,
    check_present_inputs,
    measured_images,
    measured_tokenizer,
)
from glotok_ray.evaluation.measure import Merged, build_measurement, merge
from glotok_ray.evaluation.metrics import metrics_of
from glotok_ray.evaluation.plan import VALIDATION, Block, plan, units_of
from glotok_ray.evaluation.retention import has_retention
from glotok_ray.metrics.codebook import count_codes
from glotok_ray.on_ray.actor_pool import map_shards
from glotok_ray.on_ray.tasks import run_at_once
from glotok_ray.report import grids
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.output import Unfinished

logger = logging.getLogger(__name__)

_GRID_COLUMNS = 8


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
    paths = (
        config.tokenizer_path,
        config.data_path,
        config.samples_path,
        config.codes_path,
        config.training_path,
        config.generator_path,
    )
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
    metrics = metrics_of(
        merged,
        config,
        image_size,
        lambda draws: run_at_once(tsne_draw, draws),
        num_classes=len(images.classes),
    )
    metrics = with_crops(metrics, crops_text(images))
    _write_images(evaluation.folder, merged)
    _write_retention(evaluation.folder, merged, config)
    _write_counts(evaluation.folder, merged, config)
    artefact.write_json(evaluation.folder / "metrics.json", metrics)
    for name, entry in metrics.items():
        logger.info("%s = %s", name, entry["value"])
    values = {name: entry["value"] for name, entry in metrics.items()}
    return evaluation.finish(
        metrics=values,
        num_images=len(merged[VALIDATION].features),
        image_size=image_size,
        num_classes=len(images.classes),
        crops=crops_text(images),
        config=to_dict(config),
    )


def _measure(blocks: list[Block], config: EvaluateRun, image_size: int) -> dict[str, Merged]:
    units = units_of(blocks)
    sizes = [sum(block.stop - block.start for block in unit) for unit in units]
    arguments = {"config": config, "image_size": image_size}
    measured = map_shards(
        units, build_measurement, arguments, config.pool, stage="evaluate", sizes=sizes
    )
    return merge(itertools.chain.from_iterable(measured))


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


def _write_retention(folder: Path, merged: dict[str, Merged], config: EvaluateRun) -> None:
    """Kept crops from both codebooks and from each alone, for the report."""
    model = measured_tokenizer(config)
    if model and has_retention(model):
        arrays = merged[VALIDATION].arrays
        alone = {name: arrays[f"retention_{name}"] for name in model.names}
        whole = {"inputs": arrays["inputs"], "both": arrays["reconstructions"]}
        np.savez(folder / RETENTION_FILE, **(alone | whole))  # type: ignore[arg-type]


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
