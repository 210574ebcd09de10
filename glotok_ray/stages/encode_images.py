"""Token codes of a data set: one Parquet file of codes per image shard (paper section 3.4).

Codes are what generators train on; tokenizers of any system make them, one column per grid. They are bound to the
tokenizer by the sha256 of its weights. Views are cut from the stored images, originals or not, as dataset.json of the
codes says. A killed job goes on behind the files that it has finished, which are those with a receipt of their bytes.
Read next: glotok_ray/data/training_rows.py
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from jaxtyping import Int, UInt8

from glotok_ray.config.jobs import EncodeRun
from glotok_ray.config.overrides import bound_settings, with_absolute_paths
from glotok_ray.config.pool import PoolConfig
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.codes import (
    CodeShard,
    read_code_shard,
    stored_codes,
    write_code_dataset,
    write_code_shard,
)
from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.data.recorded import check_adm_protocol, check_side, crops_text, read_image_dataset
from glotok_ray.data.records import DATASET, DatasetInfo, ShardInfo, read_dataset
from glotok_ray.data.shard_reader import read_shard, view_batches
from glotok_ray.data.transforms import center_crop, ten_crop, with_mirror_images
from glotok_ray.data.written_shards import RECEIPTS, is_whole, write_codes_receipt
from glotok_ray.devices import chosen_device, full_precision
from glotok_ray.nn.tokenizer_protocol import grids_of
from glotok_ray.pretrained.tokenizer import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_stored_tokenizer,
    code_layout,
    load_any_tokenizer,
)
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import Unfinished
from glotok_ray.storage.places import entries, remove_tree, to_path
from glotok_ray.storage.retries import patiently

logger = logging.getLogger(__name__)

# Shards that fail before any has been encoded: then the fault is not theirs.
_MOST_IN_VAIN = 8


class IncompleteError(RuntimeError):
    """Some shards could not be encoded; the text names them."""


def image_views(
    image: UInt8[np.ndarray, "h w 3"], config: EncodeRun, size: int
) -> UInt8[np.ndarray, "views size size 3"]:
    """What is encoded of an image, in the order of the column "view"."""
    if config.views == "ten_crop":
        return ten_crop(image, size, config.crop_scale)
    centre = center_crop(image, size)[np.newaxis]
    return with_mirror_images(centre) if config.views == "center_flip" else centre


class EncodeActor:
    """Encodes one shard after another and writes its codes."""

    def __init__(self, config: EncodeRun) -> None:
        self._config = config
        self._num_classes = len(read_dataset(to_path(config.data_path)).classes)
        self._device = chosen_device(use_gpu=config.pool.use_gpu)
        folder = to_path(config.tokenizer_path)
        self._layout = code_layout(folder)
        self._tokenizer = load_any_tokenizer(folder).to(self._device)

    def __call__(self, shard: ShardInfo) -> CodeShard:
        """Write the shard's codes; the rows of an image are adjacent, in the order of its views."""
        config, layout, pool = self._config, self._layout, self._config.pool
        size = layout.image_size
        table = read_shard(to_path(config.data_path), shard, minutes=pool.storage_retry_minutes)
        self._check_labels(table["label"], shard)
        batches = view_batches(
            table,
            lambda image: image_views(image, config, size),
            config.num_views,
            batch_size=pool.batch_size,
            num_threads=pool.decoding_threads,
        )
        found = [self._encode(images) for images in batches]
        codes = {name: np.concatenate([batch[name] for batch in found]) for name in layout.names}
        path = to_path(config.output_path) / shard.file
        keys, labels = table["key"].to_numpy(), table["label"].to_numpy()

        def write() -> CodeShard:
            written = write_code_shard(path, keys, labels, codes, layout)
            write_codes_receipt(path, written.bytes, written.info.sha256)
            return written

        return patiently(write, path, minutes=pool.storage_retry_minutes, doing="writing")

    def _check_labels(self, labels: pyarrow.ChunkedArray, shard: ShardInfo) -> None:
        numbers = labels.to_numpy()
        least, most = numbers.min(), numbers.max()
        if least < 0 or most >= self._num_classes:
            raise ArtefactError(
                f"{to_path(self._config.data_path) / shard.file}: labels {least} to {most}, and {DATASET} has "
                f"{self._num_classes} classes; shard the images again with --fresh"
            )

    @torch.inference_mode()
    def _encode(self, images: np.ndarray) -> dict[str, Int[np.ndarray, "rows positions"]]:
        # What it makes of numbers that are not finite, the files' own check finds.
        with full_precision():  # of TF32's products one code in 200 is another
            codes = self._tokenizer.look_up(to_model_range(images, self._device))
        found = [grid.cpu().numpy() for grid in grids_of(codes, self._tokenizer.rate)]
        return stored_codes(found, self._layout)


def check_inputs(config: EncodeRun) -> DatasetInfo:
    """The facts of the shards to encode; raises ArtefactError where the config asks for ADM's crops and the images have
    others, and when the tokenizer at tokenizer_path, if it is there, takes larger images or has another model's
    tensors.
    """
    folder, tokenizer = to_path(config.data_path), to_path(config.tokenizer_path)
    dataset = read_image_dataset(folder)
    if config.adm_protocol:
        check_adm_protocol(dataset, folder=folder, field="adm_protocol")
    if (tokenizer / CONFIG_FILE).is_file():
        check_side(dataset, folder, code_layout(tokenizer).image_size)
        check_stored_tokenizer(tokenizer)
    return dataset


@ownership.holding()
def run(config: EncodeRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the folder of codes and return its manifest."""
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    dataset = check_inputs(config)
    codes = output.begin(
        config.output_path,
        "codes",
        bound_settings(config),
        [config.data_path, config.tokenizer_path],
        fresh=fresh,
        unfinished=Unfinished.SAME_ONLY,
    )
    if codes.finished is not None:
        _remove_working_files(codes.folder)
        return codes.finished
    shards = _encode_shards(config, dataset)
    _write_facts(codes.folder, config, dataset, shards)
    manifest = codes.finish(
        exclude=(RECEIPTS,),
        known={shard.info.file: (shard.bytes, shard.info.sha256) for shard in shards},
        num_images=sum(shard.rows for shard in dataset.shards),
    )
    _remove_working_files(codes.folder)
    return manifest


def _remove_working_files(folder: Path) -> None:
    """The receipts, and what actors that were killed had written of their files."""
    remove_tree(folder / RECEIPTS, ignore_errors=True)
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _encode_shards(config: EncodeRun, dataset: DatasetInfo) -> list[CodeShard]:
    """The codes of every shard of images; files that are finished are not written again."""
    # Here, not above: Ray takes seconds to import, and --dry-run needs this module without it.
    from glotok_ray.on_ray.actor_pool import map_shards

    folder = to_path(config.output_path)
    finished = _finished(folder, dataset, minutes=config.pool.storage_retry_minutes)
    missing = [shard for shard in dataset.shards if shard.file not in finished]
    sizes = [shard.rows for shard in missing]
    found: dict[str, CodeShard] = {}
    failed: dict[str, str] = {}

    def note(shard: ShardInfo, reason: str) -> None:
        failed[shard.file] = reason
        logger.warning("%s is not encoded: %s", shard.file, reason)
        if len(failed) == _MOST_IN_VAIN and not found:
            raise _incomplete(folder, failed, len(dataset.shards))

    made = map_shards(
        missing,
        EncodeActor,
        {"config": config},
        config.pool,
        stage="encode",
        sizes=sizes,
        on_failure=note,
    )
    for shard in made:
        found[shard.info.file] = shard
    if failed:
        raise _incomplete(folder, failed, len(dataset.shards))
    layout = code_layout(to_path(config.tokenizer_path))
    return [
        found.get(shard.file) or _read_again(folder / shard.file, layout, config.pool)
        for shard in dataset.shards
    ]


def _incomplete(folder: Path, failed: dict[str, str], number: int) -> IncompleteError:
    name, reason = next(iter(failed.items()))
    which = name if len(failed) == 1 else f"{', '.join(failed)}; the first, {name}"
    return IncompleteError(
        f"{folder}: {len(failed)} of {number} shards could not be encoded ({which}: {reason}); the others are kept. "
        "Restore a damaged file, and the same command encodes what is missing; images that cannot be used must be "
        "sharded again, and then encoded with --fresh"
    )


def _read_again(path: Path, layout: CodeLayout, pool: PoolConfig) -> CodeShard:
    return patiently(
        lambda: read_code_shard(path, layout), path, minutes=pool.storage_retry_minutes
    )


def _finished(folder: Path, dataset: DatasetInfo, *, minutes: float) -> set[str]:
    """The files that are what their receipts say, every byte read. Files of older versions have no receipt, and what a
    machine that lost its power left of one may look whole at its end, so others are not taken.
    """
    there = {path.name for path, _ in entries(folder)}
    names = [shard.file for shard in dataset.shards if shard.file in there]
    if not names:
        return set()

    def check(name: str) -> bool:
        path = folder / name
        return patiently(lambda: is_whole(path), path, minutes=minutes)

    with ThreadPoolExecutor() as threads:
        whole = {name for name, good in zip(names, threads.map(check, names), strict=True) if good}
    logger.info("%d of %d files are finished already", len(whole), len(dataset.shards))
    if len(whole) < len(names):
        logger.info(
            "%d files are encoded again: they have no receipt (a job of an older version or one that was killed leaves "
            "such), or are not what it says",
            len(names) - len(whole),
        )
    return whole


def _write_facts(
    folder: Path, config: EncodeRun, dataset: DatasetInfo, shards: list[CodeShard]
) -> None:
    tokenizer = to_path(config.tokenizer_path)
    counts = write_code_dataset(
        folder,
        shards,
        code_layout(tokenizer),
        num_views=config.num_views,
        classes=dataset.classes,
        tokenizer_sha256=artefact.sha256_of(tokenizer / WEIGHTS_FILE),
        details={
            "views": config.views,
            "crop_scale": config.crop_scale if config.views == "ten_crop" else None,
            "crops": crops_text(dataset),
        },
    )
    for name, found in counts.items():
        logger.info("%s codes in use: %d of %d", name, np.count_nonzero(found), len(found))
