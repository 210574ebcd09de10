"""Image shards: photographs, a class-folder tree or archives in, Parquet shards of training and validation images out.

One Ray Data task reads, encodes and writes one shard; bytes depend on the config and the images alone. An image that
cannot be read costs itself: the split was drawn from the listing, and its shard gets a row less. A job that was killed
goes on behind the shards that are written.
Read next: glotok_ray/data/sources.py
"""

import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glotok_ray.config.jobs import ShardRun
from glotok_ray.config.overrides import input_paths, with_absolute_paths
from glotok_ray.data.encoding_order import times_read
from glotok_ray.data.forms import PARQUET
from glotok_ray.data.left_out import Losses, left_out_text
from glotok_ray.data.listing import SPLITS, RowSource
from glotok_ray.data.records import DATASET, read_dataset, write_dataset
from glotok_ray.data.reduction import MEASURED_IMAGES, reduction_facts
from glotok_ray.data.row_columns import labels_of
from glotok_ray.data.shard_writing import ShardTask, shard_file, write_task
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.written_shards import RECEIPTS, WrittenShard, receipt_of
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.output import Unfinished, check_apart, look_at_all
from glotok_ray.storage.places import remove_tree, to_path

logger = logging.getLogger(__name__)

_NAMED_CLASSES = 5
_MOST_TIMES_READ = 2.0
"""Above it the log says how often Parquet's row groups are read, and what to do."""


def describe(config: ShardRun) -> dict[str, Any]:
    """What would run, from the listing alone: no image of a folder is opened."""
    source = ImageSource.of(config)
    shards = source.shards()
    _name_classes(source)
    _name_left_out(source)
    times = _name_readings(shards)
    return {
        "source": config.source,
        "output_path": config.output_path,
        "classes": len(source.classes),
        "images": {split: sum(map(len, parts)) for split, parts in shards.items()},
        "shards": {split: len(parts) for split, parts in shards.items()},
        "form": source.form,
        "left_out": [item._asdict() for item in source.left_out],
        **({} if times is None else {"source_times_read": round(times, 1)}),
    }


@ownership.holding()
def run(config: ShardRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write output_path/train and output_path/validation, or recognise them; returns their counts.

    Connects to Ray when there is work. Raises ValueError for what the user can mend.
    """
    config = with_absolute_paths(config)
    top = to_path(config.output_path)
    folders = [top / split for split in SPLITS]
    for folder in folders:
        check_apart(folder, input_paths(config).values(), fresh=fresh)
    source = ImageSource.of(config)
    outputs = look_at_all(folders, "shards", source.bound_settings(), fresh=fresh)
    if all(output.finished is not None for output in outputs):
        logger.info("already finished: %s", top)
        _remove_receipts(folders)
        return _summary(top)
    # Nothing that stands is touched before it is known that the new rows can be drawn.
    shards = source.shards()
    _name_classes(source)
    _name_left_out(source)
    _name_readings(shards)
    for output in outputs:
        output.check_startable()
    for output in outputs:
        folder = output.begin(Unfinished.SAME_OR_REPLACE)
        for pattern in (".*.parquet.*.tmp", ".*.tar.*.tmp"):
            for torn in folder.glob(pattern):
                torn.unlink()
    written = _write(shards, config)
    losses = _losses(source, shards, written, config)
    _name_losses(source, losses, top)
    _name_cost(losses)
    for split in SPLITS:
        write_dataset(
            top / split,
            classes=source.classes,
            form=source.form,
            image_size=config.image_size or config.resize_short_side,
            shards=[shard.info for shard in written[split] if shard.info.rows],
            details={**source.images.details(losses, split), **_format_facts(config)},
        )
    for split, output in zip(SPLITS, outputs, strict=True):
        output.finish(
            exclude=(RECEIPTS,),
            known={
                shard.info.file: (shard.bytes, shard.info.sha256)
                for shard in written[split]
                if shard.info.rows
            },
            **losses.reduction[split],
        )
    # Not before both splits are finished: a job that was killed between them needs the receipts of both.
    _remove_receipts(folders)
    return _summary(top)


def _write(
    shards: Mapping[str, list[Sequence[RowSource]]], config: ShardRun
) -> dict[str, list[WrittenShard]]:
    """Write all shards in one pass."""
    # Here, not above: Ray takes seconds to import, and --dry-run needs this module without it.
    from glotok_ray.on_ray.tasks import map_tasks

    tasks = [
        ShardTask(
            str(to_path(config.output_path) / split),
            shard_file(config, index),
            rows,
            -(-MEASURED_IMAGES // len(shards[split])),
        )
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


def _format_facts(config: ShardRun) -> dict[str, str]:
    """Said of tars alone, so that Parquet's dataset.json stays as it was."""
    return {} if config.output_form == PARQUET else {"shard_format": config.output_form}


def _remove_receipts(folders: Sequence[Path]) -> None:
    for folder in folders:
        remove_tree(folder / RECEIPTS, ignore_errors=True)


def _losses(
    source: ImageSource,
    shards: Mapping[str, list[Sequence[RowSource]]],
    written: Mapping[str, list[WrittenShard]],
    config: ShardRun,
) -> Losses:
    """What could not be stored as it was; raises ValueError for a split of which nothing is left."""
    unreadable: dict[str, str] = {}
    changed: dict[str, str] = {}
    empty: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        for shard in written[split]:
            unreadable |= shard.unreadable
            changed |= shard.changed
        lost = _lost_classes(shards[split], unreadable, source.classes)
        if lost and not any(shard.info.rows for shard in written[split]):
            raise ValueError(
                f"{split}: none of its {sum(map(len, shards[split]))} images can be read, e.g. "
                f"{min(lost.values())}; bring images that can"
            )
        empty[split] = dict(sorted(lost.items()))
    num_turned = {split: sum(shard.turned for shard in written[split]) for split in SPLITS}
    num_changed = {split: sum(len(shard.changed) for shard in written[split]) for split in SPLITS}
    reduction = {split: _reduction(written[split], config) for split in SPLITS}
    return Losses(unreadable, changed, num_turned, num_changed, reduction, empty)


def _lost_classes(
    shards: Sequence[Sequence[RowSource]], unreadable: Mapping[str, str], classes: Sequence[str]
) -> dict[str, str]:
    """Classes of a split that have no image left, each with one of its images and the reason."""
    if not unreadable:
        return {}
    found = {label for part in shards for label in np.unique(labels_of(part)).tolist()}
    left = {row.label for part in shards for row in part if row.key not in unreadable}
    if found == left:
        return {}
    return {
        classes[row.label]: f"{row.key} ({unreadable[row.key]})"
        for part in shards
        for row in part
        if row.label not in left
    }


def _reduction(written: Sequence[WrittenShard], config: ShardRun) -> dict[str, Any]:
    errors = [error for shard in written for error in shard.squared_errors]
    return reduction_facts(config, sum(shard.resized for shard in written), errors)


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


def _name_readings(shards: Mapping[str, list[Sequence[RowSource]]]) -> float | None:
    """How many times over a Parquet source is read, which is logged where it is much; None for other sources."""
    times = times_read(itertools.chain.from_iterable(shards.values()))
    if times is not None and times > _MOST_TIMES_READ:
        logger.warning(
            "images of the Parquet source are read %.1f times over, since those of a shard lie in many row groups. "
            "Give a source of folders or tars, or write each file again with groups of %d images: "
            "python -c \"from pyarrow.parquet import *; write_table(read_table('OLD.parquet'), 'NEW.parquet', "
            'row_group_size=%d)"',
            times,
            _MOST_TIMES_READ,
            _MOST_TIMES_READ,
        )
    return times


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


def _name_cost(losses: Losses) -> None:
    for split, facts in losses.reduction.items():
        if not facts:
            continue
        cost = facts.get("resize_cost")
        logger.info(
            "%s: %d images reduced to a short side of %d pixels, JPEG of quality %d; %s",
            split,
            facts["num_resized"],
            facts["resize_short_side"],
            facts["jpeg_quality"],
            "PSNR of ADM's crops to {crop_side} pixels against those of the originals: {mean_psnr_db} dB on average, "
            "{lowest_psnr_db} dB at worst, of {images} images".format(**cost)
            if cost
            else "none was compared",
        )


def _summary(output: Path) -> dict[str, Any]:
    answer: dict[str, Any] = {"output_path": str(output)}
    for split in SPLITS:
        dataset = read_dataset(output / split, tars=True)
        answer["classes"] = len(dataset.classes)
        answer["form"] = dataset.form
        answer[split] = {"images": dataset.num_images, "shards": len(dataset.shards)}
    facts = artefact.read_json(output / SPLITS[0] / DATASET)
    left_out = sum(item["files"] for item in facts["left_out"])
    return {**answer, "unreadable": len(facts["unreadable"]), "left_out": left_out}
