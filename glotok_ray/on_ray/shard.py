"""Image shards: photographs or a class-folder tree in, Parquet shards of training and validation images out.

One Ray Data task reads, encodes and writes one shard; bytes depend on the config and the pictures alone.
Read next: glotok_ray/data/sources.py
"""

import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray.data

from glotok_ray import artefact, begun, faults, ownership
from glotok_ray.config import ShardRun, with_absolute_paths
from glotok_ray.data.pictures import UnreadablePictureError
from glotok_ray.data.records import (
    DATASET,
    Row,
    ShardInfo,
    read_dataset,
    write_dataset,
    write_shard,
)
from glotok_ray.data.sources import SPLITS, ImageSource, RowSource
from glotok_ray.on_ray import cluster
from glotok_ray.progress import ProgressLine

logger = logging.getLogger(__name__)


class ShardTask(NamedTuple):
    """One shard to write: the split's folder, the file name and the rows' sources in their order."""

    folder: str
    file: str
    sources: list[RowSource]


class WrittenShard(NamedTuple):
    """Facts of a written shard; `bytes` is the file's size, `unreadable` maps keys to reasons."""

    info: ShardInfo
    bytes: int
    unreadable: dict[str, str]


def describe(run: ShardRun) -> dict[str, Any]:
    """What would run, from the listing alone: no picture of a folder is opened."""
    source = ImageSource.of(run)
    counts = {split: len(rows) for split, rows in source.rows({}).items()}
    return {
        "source": run.source,
        "output_path": run.output_path,
        "classes": len(source.classes),
        "images": counts,
        "shards": {split: -(-count // run.rows_per_shard) for split, count in counts.items()},
        "ignored_files": source.ignored_files,
    }


@ownership.holding()
def run(run: ShardRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write output_path/train and output_path/validation, or recognise them; returns their counts.

    Connects to Ray when there is work. Raises ValueError for what the user can mend.
    """
    run = with_absolute_paths(run)
    source = ImageSource.of(run)
    output, fingerprint = Path(run.output_path), source.fingerprint()
    if not fresh and _finished(output, fingerprint):
        logger.info("already finished: %s", output)
        return _summary(output)
    # Nothing that stands is touched before it is known that the new rows can be drawn.
    source.rows({})
    for split in SPLITS:
        begun.check_startable(output / split, fresh=fresh)
    for split in SPLITS:
        begun.start_folder(output / split, fresh=fresh)
    written, unreadable = _write_readable(source, output)
    details = source.details(unreadable)
    if unreadable:
        _warn(source, unreadable, output)
    for split in SPLITS:
        write_dataset(
            output / split,
            classes=source.classes,
            image_size=run.image_size,
            shards=[shard.info for shard in written[split]],
            details=details,
        )
    for split in SPLITS:
        known = {shard.info.file: (shard.bytes, shard.info.sha256) for shard in written[split]}
        artefact.write_manifest(output / split, "shards", fingerprint, known=known)
    return _summary(output)


def write_task(task: ShardTask, image_size: int) -> WrittenShard:
    """Write one shard with the readable ones among its sources."""
    unreadable: dict[str, str] = {}

    def rows() -> Iterator[Row]:
        for source in task.sources:
            try:
                yield Row(source.key, source.encode(image_size), source.label)
            except UnreadablePictureError as error:
                unreadable[source.key] = str(error)

    path = Path(task.folder) / task.file
    info = write_shard(path, rows())
    return WrittenShard(info, path.stat().st_size, unreadable)


def _finished(output: Path, fingerprint: str) -> bool:
    """Whether both splits stand; a split without its other half (a crash in between) is undone."""
    for split in SPLITS:
        # A job that works on one half may have finished the other.
        begun.check_free(output / split)
    found = [split for split in SPLITS if artefact.finished(output / split, "shards", fingerprint)]
    if len(found) == 1:
        begun.reopen(output / found[0])
    return len(found) == len(SPLITS)


def _write_readable(
    source: ImageSource, output: Path
) -> tuple[dict[str, list[WrittenShard]], dict[str, str]]:
    """Write all shards; when pictures prove unreadable, write again without them.

    So the result is that of a source without the damaged files: full shards, a split by the rule.
    """
    unreadable: dict[str, str] = {}
    while True:
        shards: dict[str, list[WrittenShard]] = {split: [] for split in SPLITS}
        tasks = []
        for split, rows in source.rows(unreadable).items():
            for old in (output / split).glob("part-*.parquet"):
                old.unlink()
            size = source.run.rows_per_shard
            for index, start in enumerate(range(0, len(rows), size)):
                file = f"part-{index:05d}.parquet"
                tasks.append(ShardTask(str(output / split), file, rows[start : start + size]))
        found: dict[str, str] = {}
        for task, written in zip(tasks, _map(tasks, source.run.image_size), strict=True):
            shards[Path(task.folder).name].append(written)
            found |= written.unreadable
        if not found:
            return shards, unreadable
        unreadable |= found
        logger.info("%d unreadable pictures: writing again without them", len(found))


def _map(tasks: list[ShardTask], image_size: int) -> Iterator[WrittenShard]:
    """Run the tasks as Ray Data tasks; results in their order."""

    def write(batch: Any) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(write_task(pickle.loads(batch["task"][0]), image_size))]}

    cluster.connect()
    # Pickled by us, so that Ray Data sees bytes and guesses no column types.
    items = [{"task": pickle.dumps(task)} for task in tasks]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        write, batch_size=1, batch_format="numpy"
    )
    dataset.context.execution_options.preserve_order = True
    progress, done = ProgressLine("shards", sum(len(task.sources) for task in tasks)), 0
    faults.boundary("unit", 0)
    for number, (row, task) in enumerate(zip(dataset.iter_rows(), tasks, strict=True), start=1):
        done += len(task.sources)
        progress.update(done)
        yield pickle.loads(row["result"])
        faults.boundary("unit", number)


def _warn(source: ImageSource, unreadable: Mapping[str, str], output: Path) -> None:
    key, reason = next(iter(sorted(unreadable.items())))
    logger.warning(
        "%d of %d pictures cannot be read and are left out, e.g. %s (%s); all are named in %s",
        len(unreadable),
        source.num_pictures,
        key,
        reason,
        output / SPLITS[0] / DATASET,
    )


def _summary(output: Path) -> dict[str, Any]:
    answer: dict[str, Any] = {"output_path": str(output)}
    for split in SPLITS:
        dataset = read_dataset(output / split)
        answer["classes"] = len(dataset.classes)
        answer[split] = {"images": dataset.num_images, "shards": len(dataset.shards)}
    facts = artefact.read_json(output / SPLITS[0] / DATASET)
    return {**answer, "unreadable": len(facts["unreadable"])}
