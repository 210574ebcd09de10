"""Features for a teacher: which images are drawn, and the actors that turn each shard into a part on disk.

Read next: glotok_ray/teacher/feature_parts.py
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from jaxtyping import Int

from glotok_ray.config.jobs import TeacherRun
from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.data.records import DatasetInfo, ShardInfo, decode_image
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.data.transforms import center_crop
from glotok_ray.on_ray.actor_pool import actor_device, map_shards, read_shard
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher import features
from glotok_ray.teacher.feature_parts import Part, finished_part, write_part

logger = logging.getLogger(__name__)


class DrawnRows(NamedTuple):
    """Rows of one shard, in ascending order."""

    shard: ShardInfo
    rows: list[int]


class DecodedImage(NamedTuple):
    """An image of a shard; no pixels where it cannot be decoded."""

    key: str
    label: int
    pixels: np.ndarray | None


class FeatureActor:
    """Feature vectors of drawn rows of one shard, written to a part."""

    def __init__(self, config: TeacherRun, folder: str) -> None:
        self._config, self._folder = config, Path(folder)
        self._device = actor_device(config.pool)
        self._network = features.build_feature_network(config, self._device)

    def __call__(self, unit: DrawnRows) -> Part:
        """The written part; vectors image by image."""
        table = read_shard(Path(self._config.data_path), unit.shard, self._config.pool).take(
            unit.rows
        )
        drawn, labels, broken, images = [], [], [], 0
        batches = _batches(self._decoded(table), self._config.pool.batch_size, broken)
        for batch in batches:
            pixels = np.stack([image.pixels for image in batch if image.pixels is not None])
            with torch.inference_mode():
                maps = self._network.spatial(to_model_range(pixels, self._device)).float().cpu()
            for image, feature_map in zip(batch, maps, strict=True):
                generator = seeded_generator("vectors", self._config.seed, image.key)
                vectors = features.draw_vectors(
                    feature_map, self._config.vectors_per_image, generator
                )
                if not torch.isfinite(vectors).all():
                    raise ValueError(
                        f"{unit.shard.file}: the features of image {image.key!r} hold NaN or infinite values; check "
                        f"the weights of {self._config.network}"
                    )
                drawn.append(vectors.numpy())
                labels += [image.label] * len(vectors)
            images += len(batch)
        if not drawn:
            drawn = [np.empty((0, features.channels(self._config)), np.float32)]
        path = part_path(self._folder, unit.shard)
        return write_part(
            path,
            np.concatenate(drawn),
            np.array(labels, np.int32),
            images=images,
            broken=broken,
        )

    def _decoded(self, table: pyarrow.Table) -> Iterator[DecodedImage]:
        """Images in order; threads decode ahead of the network."""
        keys, labels = table["key"].to_pylist(), table["label"].to_pylist()
        encoded, size = table["image"], self._config.input_size

        def decode(row: int) -> DecodedImage:
            try:
                pixels = center_crop(decode_image(encoded[row].as_py(), keys[row]), size)
            except ArtefactError:
                pixels = None
            return DecodedImage(keys[row], labels[row], pixels)

        with ThreadPoolExecutor(max(1, int(self._config.pool.cpus_per_actor))) as threads:
            yield from threads.map(decode, range(table.num_rows))


def _batches(
    images: Iterator[DecodedImage], size: int, broken: list[str]
) -> Iterator[list[DecodedImage]]:
    """Batches of decoded images; keys of the others are added to `broken`."""

    def readable() -> Iterator[DecodedImage]:
        for image in images:
            if image.pixels is None:
                broken.append(image.key)
            else:
                yield image

    stream = readable()
    while batch := list(itertools.islice(stream, size)):
        yield batch


def part_path(folder: Path, shard: ShardInfo) -> Path:
    """Where the part of a shard lies."""
    return folder / f"{Path(shard.file).stem}.parquet"


def extract(units: Sequence[DrawnRows], config: TeacherRun, folder: Path) -> list[Part]:
    """The parts of all units, in order; those that are finished already are not made again.

    Raises ArtefactError when more than half of the images cannot be decoded.
    """
    found = {unit.shard.file: finished_part(part_path(folder, unit.shard)) for unit in units}
    missing = [unit for unit in units if found[unit.shard.file] is None]
    if len(missing) < len(units):
        logger.info(
            "features: %d of %d parts are finished already", len(units) - len(missing), len(units)
        )
    arguments = {"config": config, "folder": str(folder.absolute())}
    sizes = [len(unit.rows) for unit in missing]
    made = map_shards(missing, FeatureActor, arguments, config.pool, stage="features", sizes=sizes)
    for unit, part in zip(missing, made, strict=True):
        found[unit.shard.file] = part
    parts = [part for part in found.values() if part is not None]
    broken = [key for part in parts for key in part.broken]
    if broken:
        images = sum(part.images for part in parts) + len(broken)
        message = f"{len(broken)} of {images} drawn images cannot be decoded, {broken[0]!r} first"
        if 2 * len(broken) > images:
            raise ArtefactError(
                f"{config.data_path}: {message}; shard the images again with --fresh"
            )
        logger.warning("%s; they are left out", message)
    return parts


def draw_images(dataset: DatasetInfo, config: TeacherRun) -> list[DrawnRows]:
    """At most `max_images` rows of all shards; 0 takes every row. Stratified, equally many of each
    class as far as it has them; else each image equally likely.
    """
    total = sum(shard.rows for shard in dataset.shards)
    chosen = np.arange(total)
    if 0 < config.max_images < total:
        if config.stratified:
            labels = _labels(dataset, Path(config.data_path))
            chosen = draw_stratified(labels, config.max_images, seed=config.seed)
        else:
            generator = seeded_generator("images", config.seed)
            chosen = np.sort(generator.choice(total, config.max_images, replace=False))
    units, start = [], 0
    for shard in dataset.shards:
        inside = chosen[(chosen >= start) & (chosen < start + shard.rows)] - start
        if len(inside):
            units.append(DrawnRows(shard, inside.tolist()))
        start += shard.rows
    return units


def check_classes(
    units: Sequence[DrawnRows], dataset: DatasetInfo, config: TeacherRun, vectors_per_image: int
) -> None:
    """Raise ValueError that names a class whose drawn images give fewer vectors than
    `clusters_per_class`.
    """
    drawn = [_shard_labels(unit.shard, Path(config.data_path))[unit.rows] for unit in units]
    counts = np.bincount(np.concatenate(drawn), minlength=len(dataset.classes))
    raise_for_small_classes(counts * vectors_per_image, dataset.classes, config)


def raise_for_small_classes(
    vectors: Int[np.ndarray, " classes"], classes: Sequence[str], config: TeacherRun
) -> None:
    """Raise ValueError that names the first class with too few vectors."""
    for label in np.flatnonzero(vectors < config.clusters_per_class).tolist():
        raise ValueError(
            f"clusters_per_class = {config.clusters_per_class}: class {classes[label]!r} has only "
            f"{vectors[label]} feature vectors; lower it, or raise max_images or vectors_per_image"
        )


def draw_stratified(
    labels: Int[np.ndarray, " n"], number: int, *, seed: int
) -> Int[np.ndarray, " number"]:
    """Ascending positions of `number` images: all classes give equally many, smaller ones what they
    have; what does not divide evenly goes to classes drawn by the seed.
    """
    counts = np.bincount(labels)
    quotas = np.zeros_like(counts)
    left = number
    while left:
        open_classes = np.flatnonzero(quotas < counts)
        share = left // len(open_classes)
        if share == 0:
            generator = seeded_generator("classes", seed)
            quotas[generator.choice(open_classes, left, replace=False)] += 1
            break
        given = np.minimum(share, (counts - quotas)[open_classes])
        quotas[open_classes] += given
        left -= int(given.sum())
    order = np.argsort(labels, kind="stable")
    chosen = []
    for label, positions in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        generator = seeded_generator("images", seed, label)
        chosen.append(generator.choice(positions, quotas[label], replace=False))
    return np.sort(np.concatenate(chosen))


def _labels(dataset: DatasetInfo, folder: Path) -> Int[np.ndarray, " n"]:
    return np.concatenate([_shard_labels(shard, folder) for shard in dataset.shards])


def _shard_labels(shard: ShardInfo, folder: Path) -> Int[np.ndarray, " rows"]:
    return pyarrow.parquet.read_table(folder / shard.file, columns=["label"])["label"].to_numpy()
