"""One shard from its rows' sources, in a process of its own: each image is read, made ready and written.

Read next: glotok_ray/data/written_shards.py
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.encoding_order import encoded_rows
from glotok_ray.data.forms import PARQUET, WEBDATASET
from glotok_ray.data.image_files import StoredImage
from glotok_ray.data.listing import RowSource
from glotok_ray.data.records import Row, write_shard
from glotok_ray.data.reduction import squared_error
from glotok_ray.data.tar_shards import write_tar_shard
from glotok_ray.data.written_shards import WrittenShard, finished_shard, write_receipt
from glotok_ray.storage.places import to_path


class ShardTask(NamedTuple):
    """One shard to write: the split's folder, the file name and the rows' sources in their order."""

    folder: str
    file: str
    sources: Sequence[RowSource]
    measured: int = 0
    """Of the images that are reduced, how many are compared with their originals: the first ones."""


class _Rows:
    """The rows of a shard as they are written, and what is to be told of them."""

    def __init__(self, task: ShardTask, run: ShardRun) -> None:
        self._task, self._run = task, run
        self.unreadable: dict[str, str] = {}
        self.changed: dict[str, str] = {}
        self.turned = self.resized = 0
        self.squared_errors: list[float] = []

    def __iter__(self) -> Iterator[Row]:
        for source, stored, error in encoded_rows(self._task.sources, self._run):
            if stored is None:
                self.unreadable[source.key] = error
                continue
            self._note(source, stored)
            yield Row(source.key, stored.encoded, source.label)

    def _note(self, source: RowSource, stored: StoredImage) -> None:
        if stored.resized and len(self.squared_errors) < self._task.measured:
            self.squared_errors.append(squared_error(source, stored.encoded, self._run))
        if stored.change:
            self.changed[source.key] = stored.change
        self.turned += stored.turned
        self.resized += stored.resized


_WRITERS = {PARQUET: write_shard, WEBDATASET: write_tar_shard}
_FILES = {PARQUET: "part-{:05d}.parquet", WEBDATASET: "{:06d}.tar"}


def shard_file(config: ShardRun, index: int) -> str:
    """The file name of a split's shard."""
    return _FILES[config.output_form].format(index)


def write_task(task: ShardTask, config: ShardRun) -> WrittenShard:
    """Write one shard with the readable ones among its sources, unless it is there already."""
    path = to_path(task.folder) / task.file
    if (found := finished_shard(path)) is not None:
        return found
    rows = _Rows(task, config)
    info = _WRITERS[config.output_form](path, rows)
    size = path.stat().st_size
    if not info.rows:
        path.unlink()
    written = WrittenShard(
        info,
        size,
        rows.unreadable,
        rows.changed,
        rows.turned,
        rows.resized,
        rows.squared_errors,
    )
    write_receipt(path, written)
    return written
