"""What each codebook tells of the class: a linear probe on its codes, fitted on training crops, tested on others.

The training codes are those at `codes_path` or, where that is empty, those of the training crops that the evaluation
measured. Read next: glotok_ray/metrics/linear_probe.py
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Int, Integer, Shaped, UInt16
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.records import DatasetInfo
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.evaluation.array_names import LABELS
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.inputs import baseline_codes
from glotok_ray.evaluation.plan import TRAINING, VALIDATION
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.metrics.blocks import rows_of
from glotok_ray.metrics.class_means import most_frequent_share
from glotok_ray.metrics.linear_probe import (
    CodeBlocks,
    Labelled,
    Probe,
    UndefinedProbeError,
    code_histograms,
    linear_probe,
    pooled_vectors,
    standardised,
)
from glotok_ray.pretrained.tokenizer import load_glotok_tokenizer
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import to_path

NAMING_ONE_CLASS = "always naming the most frequent class"
_MOST_WEIGHTS = 1 << 22
"""Of a probe: its solver holds some twenty numbers for each, 0.7 GB in all."""
_ROWS_PER_READ = 4096


class LabelledCodes(NamedTuple):
    """The codes of images under their codebook's name, in blocks, and the images' classes."""

    codes: Mapping[str, CodeBlocks]
    labels: Integer[ndarray, " n"]


def probe_metrics(
    measured: Mapping[str, MeasuredImages],
    config: EvaluateRun,
    num_classes: int,
) -> Metrics:
    """Accuracy of the probes of every codebook; none without a tokenizer, training codes or `probe_images`."""
    if not (config.tokenizer_path and config.probe_images):
        return {}
    model = load_glotok_tokenizer(to_path(config.tokenizer_path))
    names = model.config.names
    if config.codes_path:
        training = stored_training_codes(config, names)
    elif TRAINING in measured:
        training = _drawn(measured[TRAINING], names, config)
    else:
        return {}
    validation = measured[VALIDATION]
    test = LabelledCodes(
        {name: validation.blocks(name) for name in names}, validation.column(LABELS)
    )
    metrics: Metrics = {}
    for name in names:
        vectors = model.quantizer(name).matched_codes().double().numpy()
        metrics |= codebook_probes(
            name, vectors, training, test, num_classes=num_classes, config=config
        )
    return metrics


def codebook_probes(
    name: str,
    vectors: Shaped[ndarray, "k d"],
    training: LabelledCodes,
    test: LabelledCodes,
    *,
    num_classes: int,
    config: EvaluateRun,
) -> Metrics:
    """Both probes of one codebook, whose codes stand for `vectors`."""
    known, asked = training.codes[name], test.codes[name]
    num_codes, width = vectors.shape
    features = {
        f"probe_{name}": (
            "mean code vector",
            f"the mean of an image's code vectors ({width} numbers, standardised)",
            width,
            lambda: standardised(pooled_vectors(known, vectors), pooled_vectors(asked, vectors)),
        ),
        f"probe_{name}_histogram": (
            "code histogram",
            f"the square roots of the shares of an image's codes ({num_codes} numbers), wherever they lie",
            num_codes,
            lambda: (code_histograms(known, num_codes), code_histograms(asked, num_codes)),
        ),
    }
    metrics: Metrics = {}
    for entry, (label, what, size, build) in features.items():
        found: Probe | str
        if size * num_classes > _MOST_WEIGHTS:
            found = (
                f"{size} numbers and {num_classes} classes need more than {_MOST_WEIGHTS} weights"
            )
        else:
            found = _fitted(build, training.labels, test.labels, num_classes, config.probe_l2)
        metrics[entry] = _entry(
            f"Class from the {name} codes ({label})",
            what,
            found,
            num_training=len(training.labels),
            test=test.labels,
            num_classes=num_classes,
            config=config,
        )
    return metrics


def _fitted(
    build: Callable[[], tuple[Any, Any]],
    training: Integer[ndarray, " n"],
    test: Integer[ndarray, " m"],
    num_classes: int,
    l2: float,
) -> Probe | str:
    """What a probe reached; the reason in its place where there is none."""
    known, asked = build()
    try:
        return linear_probe(
            Labelled(known, training), Labelled(asked, test), num_classes=num_classes, l2=l2
        )
    except UndefinedProbeError as error:
        return str(error)


def _entry(
    label: str,
    what: str,
    found: Probe | str,
    *,
    num_training: int,
    test: Integer[ndarray, " m"],
    num_classes: int,
    config: EvaluateRun,
) -> dict[str, Any]:
    chance = most_frequent_share(test)
    crops = (
        "training images' codes at codes_path (the first view of each)"
        if config.codes_path
        else "training crops"
    )
    protocol = (
        f"Share of {len(test)} validation crops whose class a linear classifier names from {what}: multinomial "
        f"logistic regression in float64, fitted on {num_training} {crops}, at most {config.probe_images}, drawn by "
        f"the seed, with {config.probe_l2:g} / 2 times the squared weights added to the mean loss. Always "
        f"naming the most frequent class of these validation crops gives {chance:.4g}; ± is the standard error over "
        "crops, half of Wilson's interval where all or none are named."
    )
    if isinstance(found, str):
        protocol = f"Undefined here ({found}). {protocol}"
    elif not found.converged:
        protocol += " The fit was stopped at its last step."
    return metric_entry(
        label,
        None if isinstance(found, str) else found.accuracy,
        protocol,
        None if isinstance(found, str) else found.standard_error,
        chance=chance,
        facts={
            "num_images": len(test),
            "reference": crops,
            "reference_images": num_training,
            "chance_is": NAMING_ONE_CLASS,
            "classes": num_classes,
            "l2": config.probe_l2,
            "seed": config.seed,
        },
    )


# ---------------------------------------------------------------------------------------- training codes


def stored_training_codes(config: EvaluateRun, names: Sequence[str]) -> LabelledCodes:
    """The codes at `codes_path` of at most `probe_images` images, drawn by the seed; of each its first view."""
    folder, dataset = to_path(config.codes_path), baseline_codes(config)
    chosen = chosen_images(dataset.num_images, config)
    parts = list(_chosen_rows(folder, dataset, chosen * dataset.num_views, names))
    codes = {name: [_grid(part[name]) for part in parts] for name in names}
    return LabelledCodes(codes, np.concatenate([part["label"].to_numpy() for part in parts]))


def chosen_images(num_images: int, config: EvaluateRun) -> Int[ndarray, " n"]:
    """Ascending numbers of the images that a probe is fitted on."""
    if num_images <= config.probe_images:
        return np.arange(num_images)
    generator = seeded_generator("probe", config.seed)
    return np.sort(generator.choice(num_images, config.probe_images, replace=False))


def _chosen_rows(
    folder: Path, dataset: DatasetInfo, rows: Int[ndarray, " n"], names: Sequence[str]
) -> Iterator[pyarrow.RecordBatch]:
    """The rows of all shards, in order: of each shard the row groups that hold some, in parts, so that its size does
    not matter.
    """
    ends = np.cumsum([shard.rows for shard in dataset.shards])
    for shard, end in zip(dataset.shards, ends, strict=True):
        first, last = np.searchsorted(rows, [end - shard.rows, end])
        own = rows[first:last] - (end - shard.rows)
        if not len(own):
            continue
        with pyarrow.parquet.ParquetFile(at_hand(folder / shard.file)) as file:
            groups, numbers = _groups_of(file, own)
            for batch in file.iter_batches(
                _ROWS_PER_READ, row_groups=groups, columns=["label", *names]
            ):
                here, numbers = numbers[: batch.num_rows], numbers[batch.num_rows :]
                wanted = np.flatnonzero(np.isin(here, own))
                if len(wanted):
                    yield batch.take(pyarrow.array(wanted))


def _groups_of(
    file: pyarrow.parquet.ParquetFile, rows: Int[ndarray, " n"]
) -> tuple[list[int], Int[ndarray, " m"]]:
    """The row groups that hold these rows, and the numbers of all rows in them."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes).tolist()
    groups = np.unique(np.searchsorted(ends, rows, side="right")).tolist()
    return groups, np.concatenate([np.arange(ends[g] - sizes[g], ends[g]) for g in groups])


def _grid(codes: pyarrow.Array) -> UInt16[ndarray, "b positions"]:
    return codes.flatten().to_numpy(zero_copy_only=False).reshape(len(codes), -1)


def _drawn(training: MeasuredImages, names: Sequence[str], config: EvaluateRun) -> LabelledCodes:
    """The codes of at most `probe_images` of the training crops that were measured."""
    chosen = chosen_images(training.count, config)
    codes = {name: [rows_of(training.blocks(name), chosen)] for name in names}
    return LabelledCodes(codes, training.column(LABELS)[chosen])
