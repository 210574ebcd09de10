"""In which order the images of a shard are read: as they are wanted, or, of Parquet sources, group by group.

A row group is read whole for each of its images, so rows of one group are read one after another, and their results
wait until it is their turn. Read next: glotok_ray/data/shard_writing.py
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import StoredImage, UnreadableImageError
from glotok_ray.data.listing import RowSource
from glotok_ray.data.parquet_images import ParquetImage

WAITING_BYTES = 256 << 20
"""Files at most whose results wait for their turn; they count as listed, before PNG makes them larger."""


class Encoded(NamedTuple):
    """A row's source and what is stored of it; the error in its place where it cannot be read."""

    source: RowSource
    stored: StoredImage | None
    error: str = ""


def encoded_rows(sources: Sequence[RowSource], run: ShardRun) -> Iterator[Encoded]:
    """Every source in order, encoded."""
    for window in _windows(sources):
        if not any(isinstance(source, ParquetImage) for source in window):
            yield from (_encoded(source, run) for source in window)
            continue
        order = sorted(range(len(window)), key=lambda place: _group_of(window[place]))
        found = {place: _encoded(window[place], run) for place in order}
        yield from (found[place] for place in range(len(window)))


def times_read(shards: Iterable[Sequence[RowSource]]) -> float | None:
    """How many times over the images of Parquet sources are read for all shards, by their bytes; None without any.

    Of g images in each row group and n shards that all images are shuffled over, n (1 - (1 - 1/n)^g): each group is
    read by every shard that has an image of it.
    """
    group_bytes: Counter[tuple[str, int]] = Counter()
    readings: Counter[tuple[str, int]] = Counter()
    for sources in shards:
        # The images of a shard are of one kind.
        if not isinstance(sources[0], ParquetImage):
            continue
        for window in _windows(sources):
            groups: Counter[tuple[str, int]] = Counter()
            for source in window:
                groups[_group_of(source)[:2]] += source.size
            group_bytes.update(groups)
            readings.update(groups.keys())
    total = group_bytes.total()
    return (
        sum(readings[group] * size for group, size in group_bytes.items()) / total
        if total
        else None
    )


def _encoded(source: RowSource, run: ShardRun) -> Encoded:
    try:
        return Encoded(source, source.encode(run))
    except UnreadableImageError as error:
        return Encoded(source, None, str(error))


def _group_of(source: RowSource) -> tuple[str, int, int]:
    if isinstance(source, ParquetImage):
        return source.path, source.group, source.row
    return "", 0, 0


def _windows(sources: Sequence[RowSource]) -> Iterator[list[RowSource]]:
    window: list[RowSource] = []
    held = 0
    for source in sources:
        if window and held + source.size > WAITING_BYTES:
            yield window
            window, held = [], 0
        window.append(source)
        held += source.size
    if window:
        yield window
