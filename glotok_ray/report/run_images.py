"""The images that finished runs kept, for Figs. 3, 4, 6 and 7 of the paper; of many samples only those shown are read.

Read next: glotok_ray/report/paper_figures.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet

from glotok_ray.evaluation.files import RECONSTRUCTIONS_FILE, RETENTION_FILE
from glotok_ray.evaluation.sample_files import read_images
from glotok_ray.report.finished_runs import FinishedRun
from glotok_ray.report.grids import by_class
from glotok_ray.report.images import ImagePairs, LabelledImages, Retention
from glotok_ray.report.inputs import read_pairs, read_retention
from glotok_ray.storage.node_cache import at_hand

PER_CLASS = 8
_MOST_CLASSES = 10
_SAMPLES_FILE, _TABLE_FILE = "samples.npz", "samples.parquet"


class RunImages(NamedTuple):
    """What one run kept; None where it has no such images."""

    run: FinishedRun
    reconstructions: ImagePairs | None
    retention: Retention | None
    samples: LabelledImages | None
    """The first samples of at most ten classes, spread evenly over the labels."""


def read_run_images(runs: Sequence[FinishedRun]) -> list[RunImages]:
    """The kept images of runs, those of one tokenizer once; raises ArtefactError for a file that cannot be read."""
    found: list[RunImages] = []
    seen: set[Path] = set()
    for run in runs:
        tokenizer = run.tokenizer.folder if run.tokenizer else run.folder
        pairs, retention = run.folder / RECONSTRUCTIONS_FILE, run.folder / RETENTION_FILE
        is_new = tokenizer not in seen
        if pairs.is_file():
            seen.add(tokenizer)
        found.append(
            RunImages(
                run,
                read_pairs(pairs) if is_new and pairs.is_file() else None,
                read_retention(retention) if is_new and retention.is_file() else None,
                _samples(run.samples.folder) if run.samples else None,
            )
        )
    return found


def _samples(folder: Path) -> LabelledImages:
    table = pyarrow.parquet.read_table(at_hand(folder / _TABLE_FILE), columns=["label"])
    chosen = by_class(table["label"].to_pylist(), per_class=PER_CLASS)
    labels = _spread(sorted(chosen))
    indices = [index for label in labels for index in chosen[label]]
    images = [read_images(folder / _SAMPLES_FILE, index, index + 1) for index in indices]
    return LabelledImages(
        np.concatenate(images), [label for label in labels for _ in chosen[label]]
    )


def _spread(labels: Sequence[int]) -> list[int]:
    """At most ten labels, from first to last in equal steps."""
    places = np.linspace(0, len(labels) - 1, min(len(labels), _MOST_CLASSES)).round().astype(int)
    return [labels[place] for place in places]
