"""Which images of a data set are taken: drawn by the seed, equally many of each class where that is asked for.

Read next: glotok_ray/teacher/extraction.py
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from glotok_ray.data.records import DatasetInfo, ShardInfo
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.data.shard_reader import read_labels

# They wait for storage.
_THREADS = 16


class DrawnRows(NamedTuple):
    """Rows of one shard, in ascending order."""

    shard: ShardInfo
    rows: list[int]


def draw_images(
    dataset: DatasetInfo,
    folder: Path,
    *,
    max_images: int,
    stratified: bool,
    seed: int,
    minutes: float,
) -> list[DrawnRows]:
    """At most `max_images` rows of all shards in `folder`; 0 takes every row. Stratified, equally many of each
    class as far as it has them; else each image equally likely. Storage that is away is waited for, for `minutes`.
    """
    total = sum(shard.rows for shard in dataset.shards)
    chosen = np.arange(total)
    if 0 < max_images < total:
        if stratified:
            labels = _labels(dataset.shards, folder, minutes)
            chosen = draw_stratified(np.concatenate(labels), max_images, seed=seed)
        else:
            generator = seeded_generator("images", seed)
            chosen = np.sort(generator.choice(total, max_images, replace=False))
    units, start = [], 0
    for shard in dataset.shards:
        inside = chosen[(chosen >= start) & (chosen < start + shard.rows)] - start
        if len(inside):
            units.append(DrawnRows(shard, inside.tolist()))
        start += shard.rows
    return units


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


def drawn_per_class(
    units: Sequence[DrawnRows], folder: Path, num_classes: int, *, minutes: float
) -> Int[np.ndarray, " classes"]:
    """Drawn images of each class; storage that is away is waited for, for `minutes`."""
    labels = _labels([unit.shard for unit in units], folder, minutes)
    drawn = [found[unit.rows] for found, unit in zip(labels, units, strict=True)]
    return np.bincount(np.concatenate(drawn), minlength=num_classes)


def _labels(shards: Sequence[ShardInfo], folder: Path, minutes: float) -> list[np.ndarray]:
    """Of the rows of each shard; threads wait for storage side by side."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda shard: read_labels(folder, shard, minutes=minutes), shards))
