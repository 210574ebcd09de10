"""What an evaluation keeps of its images: grids for people, and arrays for the report.

Read next: glotok_ray/report/grids.py
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.array_names import retention_pictures
from glotok_ray.evaluation.files import (
    BASELINES,
    CODE_COUNTS_FILE,
    RECONSTRUCTIONS_FILE,
    RETENTION_FILE,
)
from glotok_ray.evaluation.inputs import measured_tokenizer
from glotok_ray.evaluation.plan import VALIDATION
from glotok_ray.evaluation.retention import retention_names
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.metrics.codebook import count_blocks
from glotok_ray.report import grids
from glotok_ray.storage.places import writing

_GRID_COLUMNS = 8


def write_kept_images(
    folder: Path, measured: Mapping[str, MeasuredImages], config: EvaluateRun
) -> None:
    """Write reconstructions, baselines, retention and the counts of codes, as far as they were measured."""
    _write_images(folder, measured)
    _write_retention(folder, measured, config)
    _write_counts(folder, measured, config)


def _write_images(folder: Path, measured: Mapping[str, MeasuredImages]) -> None:
    """Grids for people, arrays for the report."""
    validation = measured[VALIDATION]
    if "inputs" in validation:
        inputs, reconstructions = map(validation.pictures, ("inputs", "reconstructions"))
        with writing(folder / RECONSTRUCTIONS_FILE) as local:
            np.savez(local, inputs=inputs, reconstructions=reconstructions)
        pairs = grids.side_by_side(inputs, reconstructions)
        grids.write_grid(
            folder / "reconstructions.png", pairs, columns=4, title="input | reconstruction"
        )
    baselines = {name: measured[name].pictures("images") for name in BASELINES if name in measured}
    for name, images in baselines.items():
        with writing(folder / f"{name}.npz") as local:
            np.savez(local, images=images)
    if baselines:
        rows = [images[:_GRID_COLUMNS] for images in baselines.values()]
        labels = [name.removeprefix("baseline_") for name in baselines]
        grids.write_grid(
            folder / "baselines.png", np.concatenate(rows), columns=len(rows[0]), row_labels=labels
        )


def _write_retention(
    folder: Path, measured: Mapping[str, MeasuredImages], config: EvaluateRun
) -> None:
    """Kept crops from all codes and from each part of them alone, for the report."""
    model = measured_tokenizer(config)
    names = retention_names(model) if model else ()
    if names:
        pictures = measured[VALIDATION].pictures
        alone = {name: pictures(retention_pictures(name)) for name in names}
        whole = {"inputs": pictures("inputs"), "both": pictures("reconstructions")}
        with writing(folder / RETENTION_FILE) as local:
            np.savez(local, **(alone | whole))  # type: ignore[arg-type]


def _write_counts(
    folder: Path, measured: Mapping[str, MeasuredImages], config: EvaluateRun
) -> None:
    """Occurrences of every code in the validation crops, unused codes included."""
    model = measured_tokenizer(config)
    if model:
        codes = measured[VALIDATION].blocks
        counts = {
            name: count_blocks(codes(name), grid.num_codes)
            for name, grid in zip(model.grid_names, model.rate.grids, strict=True)
        }
        with writing(folder / CODE_COUNTS_FILE) as local:
            np.savez(local, **counts)  # type: ignore[arg-type]
