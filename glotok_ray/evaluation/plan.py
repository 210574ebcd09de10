"""The blocks of an evaluation: validation rows, samples, and the codes of the two baselines.

A block has the same images whatever the number of actors: they follow from the data and `pool.batch_size` alone.
Read next: glotok_ray/evaluation/measure.py
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
from jaxtyping import UInt16

from glotok_ray.config.jobs import EvaluateRun
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.data.recorded import (
    check_adm_protocol,
    check_classes,
    check_codes,
    check_side,
    read_image_dataset,
)
from glotok_ray.data.records import DATASET, DatasetInfo, read_dataset
from glotok_ray.evaluation.files import BASELINES, stored_images
from glotok_ray.metrics.baselines import PositionCounts, draw_uniform
from glotok_ray.pretrained.tokenizer import CONFIG_FILE, WEIGHTS_FILE, tokenizer_config
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError

VALIDATION, SAMPLES = "validation", "samples"
# Blocks of a shard that an actor takes at once, so that images are decoded while the device works on those before.
_BLOCKS_PER_UNIT = 4


class Block(NamedTuple):
    """Images of one batch: rows of a shard, images of samples.npz, or codes to decode."""

    kind: str
    """VALIDATION, SAMPLES, or the name of a baseline."""
    start: int
    stop: int
    first_image: int = 0
    """Position of the block's first image within its kind."""
    file: str = ""
    codes: UInt16[np.ndarray, "b codebooks positions"] | None = None
    """Codes of a baseline's block."""


def check_inputs(config: EvaluateRun) -> None:
    """Raise ValueError for paths that leave nothing to evaluate or nothing to compare with."""
    if not config.tokenizer_path and not config.samples_path:
        raise ValueError(
            "tokenizer_path and samples_path are empty: there is nothing to evaluate; give one"
        )
    if not config.data_path:
        raise ValueError(
            "data_path is empty: give the validation shards, the reference of all distances"
        )
    if config.codes_path and not (config.tokenizer_path and config.samples_path):
        raise ValueError(
            f"codes_path = {config.codes_path!r}: baselines need tokenizer_path, which decodes "
            "them, and samples_path, which they are compared with; give both, or leave codes_path "
            "empty"
        )


def plan(config: EvaluateRun) -> tuple[list[Block], int]:
    """The blocks of an evaluation, and the side in pixels of the validation crops; draws the
    baselines' codes.
    """
    size = config.pool.batch_size
    dataset = measured_images(config)
    blocks = list(_validation_blocks(dataset, config))
    model = measured_tokenizer(config)
    image_size = model.autoencoder.image_size if model else 0
    if config.samples_path:
        samples = measured_samples(config, dataset)
        image_size, num_samples = samples.image_size, samples.num_images
        blocks += [
            Block(SAMPLES, start, min(start + size, num_samples), start)
            for start in range(0, num_samples, size)
        ]
        if config.codes_path and model:
            blocks += _baseline_blocks(config, model, num_samples)
    return blocks, image_size


def units_of(blocks: Sequence[Block]) -> list[list[Block]]:
    """The blocks in order, in units of work: adjacent blocks of one shard together, a few at most; others alone."""
    units: list[list[Block]] = []
    for file, group in itertools.groupby(blocks, key=lambda block: block.file):
        adjacent, size = list(group), _BLOCKS_PER_UNIT if file else 1
        units += [adjacent[start : start + size] for start in range(0, len(adjacent), size)]
    return units


class Present(NamedTuple):
    """The facts of an evaluation's inputs; None for those that are not there yet."""

    images: DatasetInfo | None
    samples: DatasetInfo | None


def check_present_inputs(config: EvaluateRun) -> Present:
    """Check those inputs of an evaluation that are there, for a dry run; raises ArtefactError."""

    def is_there(path: str) -> bool:
        return bool(path) and (Path(path) / artefact.MANIFEST).is_file()

    if not is_there(config.data_path):
        return Present(None, None)
    images = measured_images(config)
    has_tokenizer = not config.tokenizer_path or is_there(config.tokenizer_path)
    samples = None
    if is_there(config.samples_path) and has_tokenizer:
        samples = measured_samples(config, images)
    if is_there(config.codes_path) and has_tokenizer:
        baseline_codes(config)
    return Present(images, samples)


def measured_images(config: EvaluateRun) -> DatasetInfo:
    """The facts of the validation shards; raises ArtefactError where the config asks for ADM's crops and they have
    others, and when the tokenizer, if it is there, takes larger images.
    """
    tokenizer = Path(config.tokenizer_path)
    there = config.tokenizer_path and (tokenizer / CONFIG_FILE).is_file()
    return check_images(config, tokenizer_config(tokenizer) if there else None)


def check_images(config: EvaluateRun, tokenizer: TokenizerConfig | None) -> DatasetInfo:
    """The facts of the validation shards; raises ArtefactError when they are too few, too small for the tokenizer, or
    not what the config asks for.
    """
    folder = Path(config.data_path)
    images = read_image_dataset(folder)
    if config.adm_protocol:
        check_adm_protocol(images, folder=folder, field="adm_protocol")
    if tokenizer:
        check_side(images, folder, tokenizer.autoencoder.image_size)
    if config.num_images > images.num_images:
        raise ArtefactError(
            f"num_images = {config.num_images}: {folder} holds {images.num_images} images; lower it, 0 takes all"
        )
    return images


def measured_samples(config: EvaluateRun, dataset: DatasetInfo) -> DatasetInfo:
    """The samples' facts; raises ArtefactError when they are of other classes than the validation images of `dataset`,
    or drawn through another tokenizer than the one that they are measured beside.
    """
    folder = Path(config.samples_path)
    manifest, samples = artefact.read_manifest(folder, "samples"), read_image_dataset(folder)
    recorded = (samples.num_images, samples.image_size, samples.image_size, 3)
    found = stored_images(folder / "samples.npz").shape
    if found != recorded:
        raise ArtefactError(
            f"{folder / 'samples.npz'}: holds an array of shape {found}, and {DATASET} says {recorded}; sample again "
            "with --fresh"
        )
    check_classes(samples.classes, str(folder), dataset.classes, config.data_path)
    check_side(dataset, Path(config.data_path), samples.image_size)
    if config.tokenizer_path:
        digest = _weights_digest(config)
        if manifest["tokenizer_sha256"] != digest:
            raise ArtefactError(
                f"{folder}: decoded by tokenizer {manifest['tokenizer_sha256'][:12]}, but tokenizer_path = "
                f"{config.tokenizer_path} is {digest[:12]}, whose reconstructions and baselines would stand beside "
                "them; correct a path, or measure the samples alone, without tokenizer_path and codes_path"
            )
    return samples


def measured_tokenizer(config: EvaluateRun) -> TokenizerConfig | None:
    """The measured tokenizer's config; None when only samples are measured."""
    return tokenizer_config(Path(config.tokenizer_path)) if config.tokenizer_path else None


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


def _baseline_blocks(config: EvaluateRun, model: TokenizerConfig, num_images: int) -> list[Block]:
    """As many images as samples per baseline, each from codes keyed by (seed, image)."""
    counts = _training_counts(config, model)
    codes: dict[str, list[np.ndarray]] = {name: [] for name in BASELINES}
    for branch, count in enumerate(counts):
        num_positions, num_codes = count.counts.shape
        codes["baseline_uniform"].append(
            draw_uniform(
                0,
                num_images,
                num_positions=num_positions,
                num_codes=num_codes,
                seed=config.seed,
                branch=branch,
            )
        )
        codes["baseline_marginal"].append(
            count.draw(0, num_images, seed=config.seed, branch=branch)
        )
    blocks = []
    for name, parts in codes.items():
        drawn = np.stack(parts, axis=1)
        for start in range(0, num_images, config.pool.batch_size):
            stop = min(start + config.pool.batch_size, num_images)
            blocks.append(Block(name, start, stop, start, codes=drawn[start:stop]))
    return blocks


def baseline_codes(config: EvaluateRun) -> DatasetInfo:
    """The facts of the codes that baselines are drawn from; raises ArtefactError when another tokenizer made them."""
    folder, tokenizer = Path(config.codes_path), Path(config.tokenizer_path)
    artefact.read_manifest(folder, "codes")
    codes = read_dataset(folder)
    check_codes(codes, folder, tokenizer_config(tokenizer), tokenizer, _weights_digest(config))
    images = read_image_dataset(Path(config.data_path))
    check_classes(codes.classes, str(folder), images.classes, config.data_path)
    return codes


def _weights_digest(config: EvaluateRun) -> str:
    return artefact.sha256_of(Path(config.tokenizer_path) / WEIGHTS_FILE)


def _training_counts(config: EvaluateRun, model: TokenizerConfig) -> list[PositionCounts]:
    """Codes per position of each branch over the whole training set, all views."""
    folder, dataset = Path(config.codes_path), baseline_codes(config)
    counts = [PositionCounts(model.num_tokens, codebook.size) for codebook in model.codebooks]
    for shard in dataset.shards:
        table = pyarrow.parquet.read_table(folder / shard.file, columns=list(model.names))
        for branch, count in zip(model.names, counts, strict=True):
            flat = table[branch].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            count.add(flat.reshape(table.num_rows, -1))
    return counts
