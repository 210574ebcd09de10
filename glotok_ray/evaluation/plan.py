"""The blocks of an evaluation: validation rows, samples, training rows, and images of the two baselines.

A block has the same images whatever the number of actors: they follow from the data and `pool.batch_size` alone.
Read next: glotok_ray/evaluation/measure.py
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.drawing import draw_images
from glotok_ray.data.records import DatasetInfo
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.evaluation.files import BASELINES
from glotok_ray.evaluation.inputs import (
    baseline_codes,
    check_generator,
    encoding_tokenizer,
    measured_images,
    stored_count,
    training_images,
)
from glotok_ray.evaluation.sample_inputs import Samples, measured_samples
from glotok_ray.pretrained.tokenizer import code_layout
from glotok_ray.storage.places import to_path

VALIDATION, SAMPLES, TRAINING = "validation", "samples", "training"
DECODED = "decoded"
"""Some of the training crops, encoded and decoded by the tokenizer: what copies of them would look like."""
REFERENCE = "reference"
"""Images that lie beside published statistics."""
# Blocks of a shard that an actor takes at once, so that images are decoded while the device works on those before.
_BLOCKS_PER_UNIT = 4
_MOST_DECODED = 200


class Block(NamedTuple):
    """Images of one batch: rows of a shard, samples, images of the reference, or images of a baseline."""

    kind: str
    """VALIDATION, SAMPLES, TRAINING, DECODED, REFERENCE, or the name of a baseline."""
    start: int
    stop: int
    first_image: int = 0
    """Position of the block's first image within its kind."""
    file: str = ""
    rows: Int64[np.ndarray, " b"] | None = None
    """Rows of the shard that a block of TRAINING or DECODED holds, which need not be adjacent."""


def plan(config: EvaluateRun, samples: Samples | None = None) -> tuple[list[Block], int]:
    """The blocks of an evaluation, and the side in pixels of the validation crops; `samples` are the facts of its
    samples, where they were read already.
    """
    size = config.pool.batch_size
    dataset = measured_images(config)
    blocks = list(_validation_blocks(dataset, config))
    encoding = encoding_tokenizer(config)
    image_size = code_layout(encoding).image_size if encoding else 0
    if config.samples_path:
        samples = samples or measured_samples(config, dataset)
        image_size, num_samples = samples.image_size, samples.num_images
        kinds = [SAMPLES]
        if config.codes_path and config.tokenizer_path:
            baseline_codes(config)
            kinds += BASELINES
        blocks += [
            Block(kind, start, min(start + size, num_samples), start)
            for kind in kinds
            for start in range(0, num_samples, size)
        ]
        if config.reference_path and (reference_images := stored_count(config.reference_path)):
            blocks += [
                Block(REFERENCE, start, min(start + size, reference_images), start)
                for start in range(0, reference_images, size)
            ]
    if config.training_path:
        training = list(_training_blocks(training_images(config, dataset, image_size), config))
        blocks += training
        if config.samples_path and config.tokenizer_path:
            blocks += _decoded_blocks(training, config)
    if config.generator_path:
        check_generator(config, dataset)
    return blocks, image_size


def units_of(blocks: Sequence[Block]) -> list[list[Block]]:
    """The blocks in order, in units of work: adjacent blocks of one shard together, a few at most; others alone."""
    units: list[list[Block]] = []
    for (_, file), group in itertools.groupby(blocks, key=lambda block: (block.kind, block.file)):
        adjacent, size = list(group), _BLOCKS_PER_UNIT if file else 1
        units += [adjacent[start : start + size] for start in range(0, len(adjacent), size)]
    return units


def _validation_blocks(dataset: DatasetInfo, config: EvaluateRun) -> Iterator[Block]:
    """The first num_images rows in shard order (all for 0); blocks do not cross shards."""
    total = sum(shard.rows for shard in dataset.shards)
    left, first_image = config.num_images or total, 0
    for shard in dataset.shards:
        rows = min(shard.rows, left)
        for start in range(0, rows, config.pool.batch_size):
            stop = min(start + config.pool.batch_size, rows)
            yield Block(VALIDATION, start, stop, first_image + start, file=shard.file)
        left, first_image = left - rows, first_image + rows


def _training_blocks(training: DatasetInfo, config: EvaluateRun) -> Iterator[Block]:
    """The drawn rows in shard order; blocks do not cross shards."""
    most = config.training_images
    if not config.samples_path:  # then the probe alone takes them
        most = min(most or config.probe_images, config.probe_images)
    drawn = draw_images(
        training,
        to_path(config.training_path),
        max_images=most,
        stratified=False,
        seed=config.seed,
        minutes=config.pool.storage_retry_minutes,
    )
    rows_of = [(shard.file, np.array(rows)) for shard, rows in drawn]
    return _blocks_of_rows(TRAINING, rows_of, config)


def _decoded_blocks(training: Sequence[Block], config: EvaluateRun) -> Iterator[Block]:
    """As many as are asked for of the crops in `training`, drawn by the seed: each has itself among those that it is
    compared with.
    """
    rows_of = [
        (file, np.concatenate([block.rows for block in blocks if block.rows is not None]))
        for file, blocks in itertools.groupby(training, key=lambda block: block.file)
    ]
    ends = np.cumsum([len(rows) for _, rows in rows_of])
    draw = seeded_generator("decoded", config.seed)
    chosen = np.sort(draw.choice(ends[-1], min(ends[-1], _MOST_DECODED), replace=False))
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    starts = [0, *ends[:-1]]
    drawn = [
        (file, rows[part - start])
        for (file, rows), part, start in zip(rows_of, parts, starts, strict=True)
    ]
    return _blocks_of_rows(DECODED, drawn, config)


def _blocks_of_rows(
    kind: str, rows_of: Sequence[tuple[str, Int64[np.ndarray, " n"]]], config: EvaluateRun
) -> Iterator[Block]:
    """Blocks of the rows of each shard, in order."""
    size, first_image = config.pool.batch_size, 0
    for file, rows in rows_of:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            stop = start + len(part)
            yield Block(kind, start, stop, first_image + start, file=file, rows=part)
        first_image += len(rows)
