"""Image shards: photographs, a class-folder tree or archives in, Parquet shards of training and validation images out.

One Ray Data task reads, encodes and writes one shard; bytes depend on the config and the images alone. An image that
cannot be read costs itself: the split was drawn from the listing, and its shard gets a row less. A job that was killed
goes on behind the shards that are written.
Read next: glotok_ray/data/sources.py
"""

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.config.jobs import ShardRun
from glotok_ray.config.overrides import with_absolute_paths
from glotok_ray.data.image_files import UnreadableImageError
from glotok_ray.data.left_out import Losses, left_out_text
from glotok_ray.data.listing import SPLITS, RowSource
from glotok_ray.data.records import (
    DATASET,
    Row,
    read_dataset,
    write_dataset,
    write_shard,
)
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.written_shards import (
    RECEIPTS,
    WrittenShard,
    finished_shard,
    receipt_of,
    write_receipt,
)
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.output import Unfinished, look_at_all
from glotok_ray.storage.places import remove_tree, to_path

logger = logging.getLogger(__name__)

_NAMED_CLASSES = 5


class ShardTask(NamedTuple):
    """One shard to write: the split's folder, the file name and the rows' sources in their order."""

    folder: str
    file: str
    sources: list[RowSource]


def describe(config: ShardRun) -> dict[str, Any]:
    """What would run, from the listing alone: no image of a folder is opened."""
    source = ImageSource.of(config)
    shards = source.shards()
    _name_classes(source)
    _name_left_out(source)
    return {
        "source": config.source,
        "output_path": config.output_path,
        "classes": len(source.classes),
        "images": {split: sum(map(len, parts)) for split, parts in shards.items()},
        "shards": {split: len(parts) for split, parts in shards.items()},
        "form": source.form,
        "left_out": [item._asdict() for item in source.left_out],
    }


@ownership.holding()
def run(config: ShardRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write output_path/train and output_path/validation, or recognise them; returns their counts.

    Connects to Ray when there is work. Raises ValueError for what the user can mend.
    """
    config = with_absolute_paths(config)
    source = ImageSource.of(config)
    top = to_path(config.output_path)
    folders = [top / split for split in SPLITS]
    outputs = look_at_all(folders, "shards", source.bound_settings(), fresh=fresh)
    if all(output.finished is not None for output in outputs):
        logger.info("already finished: %s", top)
        _remove_receipts(folders)
        return _summary(top)
    # Nothing that stands is touched before it is known that the new rows can be drawn.
    shards = source.shards()
    _name_classes(source)
    _name_left_out(source)
    for output in outputs:
        output.check_startable()
    for output in outputs:
        folder = output.begin(Unfinished.SAME_OR_REPLACE)
        for torn in folder.glob(".part-*.tmp"):
            torn.unlink()
    written = _write(shards, config)
    losses = _losses(source, shards, written)
    _name_losses(source, losses, top)
    for split in SPLITS:
        write_dataset(
            top / split,
            classes=source.classes,
            form=source.form,
            image_size=config.image_size,
            shards=[shard.info for shard in written[split] if shard.info.rows],
            details=source.images.details(losses, split),
        )
    for split, output in zip(SPLITS, outputs, strict=True):
        output.finish(
            exclude=(RECEIPTS,),
            known={
                shard.info.file: (shard.bytes, shard.info.sha256)
                for shard in written[split]
                if shard.info.rows
            },
        )
    # Not before both splits are finished: a job that was killed between them needs the receipts of both.
    _remove_receipts(folders)
    return _summary(top)


def write_task(task: ShardTask, config: ShardRun) -> WrittenShard:
    """Write one shard with the readable ones among its sources, unless it is there already."""
    path = to_path(task.folder) / task.file
    if (found := finished_shard(path)) is not None:
        return found
    unreadable: dict[str, str] = {}
    changed: dict[str, str] = {}
    turned = 0

    def rows() -> Iterator[Row]:
        nonlocal turned
        for source in task.sources:
            try:
                stored = source.encode(config)
            except UnreadableImageError as error:
                unreadable[source.key] = str(error)
                continue
            if stored.change:
                changed[source.key] = stored.change
            turned += stored.turned
            yield Row(source.key, stored.encoded, source.label)

    info = write_shard(path, rows())
    size = path.stat().st_size
    if not info.rows:
        path.unlink()
    written = WrittenShard(info, size, unreadable, changed, turned)
    write_receipt(path, written)
    return written


def _write(
    shards: Mapping[str, list[list[RowSource]]], config: ShardRun
) -> dict[str, list[WrittenShard]]:
    """Write all shards in one pass."""
    # Here, not above: Ray takes seconds to import, and --dry-run needs this module without it.
    from glotok_ray.on_ray.tasks import map_tasks

    tasks = [
        ShardTask(str(to_path(config.output_path) / split), f"part-{index:05d}.parquet", rows)
        for split in SPLITS
        for index, rows in enumerate(shards[split])
    ]
    there = sum(receipt_of(to_path(task.folder) / task.file).is_file() for task in tasks)
    if there:
        logger.info(
            "%d of %d shards are finished already; their bytes are checked", there, len(tasks)
        )
    written: dict[str, list[WrittenShard]] = {split: [] for split in SPLITS}
    found_shards = map_tasks(
        functools.partial(write_task, config=config),
        tasks,
        stage="shards",
        sizes=[len(task.sources) for task in tasks],
    )
    for task, found in zip(tasks, found_shards, strict=True):
        written[to_path(task.folder).name].append(found)
    return written


def _remove_receipts(folders: Sequence[Path]) -> None:
    for folder in folders:
        remove_tree(folder / RECEIPTS, ignore_errors=True)


def _losses(
    source: ImageSource,
    shards: Mapping[str, list[list[RowSource]]],
    written: Mapping[str, list[WrittenShard]],
) -> Losses:
    """What could not be stored as it was; raises ValueError for a split of which nothing is left."""
    unreadable: dict[str, str] = {}
    changed: dict[str, str] = {}
    empty: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        for shard in written[split]:
            unreadable |= shard.unreadable
            changed |= shard.changed
        rows = [row for part in shards[split] for row in part]
        left = {row.label for row in rows if row.key not in unreadable}
        lost = {
            source.classes[row.label]: f"{row.key} ({unreadable[row.key]})"
            for row in rows
            if row.label not in left
        }
        if not left:
            raise ValueError(
                f"{split}: none of its {len(rows)} images can be read, e.g. {min(lost.values())}; bring "
                "images that can"
            )
        empty[split] = dict(sorted(lost.items()))
    num_turned = {split: sum(shard.turned for shard in written[split]) for split in SPLITS}
    num_changed = {split: sum(len(shard.changed) for shard in written[split]) for split in SPLITS}
    return Losses(unreadable, changed, num_turned, num_changed, empty)


def _name_classes(source: ImageSource) -> None:
    names = source.classes
    logger.info(
        "%d classes, labels in this order: %s%s",
        len(names),
        ", ".join(names[:_NAMED_CLASSES]),
        f", ..., {names[-1]}" if len(names) > _NAMED_CLASSES else "",
    )


def _name_left_out(source: ImageSource) -> None:
    if source.left_out:
        logger.warning(
            "%d files hold no image of a format that is read, or lie outside of the class folders, or are refused; "
            "left out are %s",
            sum(item.files for item in source.left_out),
            left_out_text(source.left_out),
        )


def _name_losses(source: ImageSource, losses: Losses, output: Path) -> None:
    where = output / SPLITS[0] / DATASET
    for split, classes in losses.empty_classes.items():
        for name, example in classes.items():
            logger.warning("%s: no image of class %r can be read, e.g. %s", split, name, example)
    for texts, what in (
        (losses.unreadable, "cannot be read and are left out"),
        (losses.changed, "are not stored as they are"),
    ):
        if texts:
            key, text = min(texts.items())
            logger.warning(
                "%d of %d images %s, e.g. %s (%s); all are named in %s",
                len(texts),
                source.num_images,
                what,
                key,
                text,
                where,
            )


def _summary(output: Path) -> dict[str, Any]:
    answer: dict[str, Any] = {"output_path": str(output)}
    for split in SPLITS:
        dataset = read_dataset(output / split)
        answer["classes"] = len(dataset.classes)
        answer["form"] = dataset.form
        answer[split] = {"images": dataset.num_images, "shards": len(dataset.shards)}
    facts = artefact.read_json(output / SPLITS[0] / DATASET)
    left_out = sum(item["files"] for item in facts["left_out"])
    return {**answer, "unreadable": len(facts["unreadable"]), "left_out": left_out}
