"""Token codes of a data set: one Parquet file of codes per image shard (paper section 3.4).

Codes are what generators train on; they are bound to the tokenizer by the sha256 of its weights. Views are cut from the
stored pictures, whose short side is in [1, 1.25] times the shards' image size: ten crops of a smaller one enlarge it.
Finished files lie in the output folder's `work/` until the end, so a killed job goes on where it was.
Read next: glotok_ray/data/training_rows.py
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8, UInt16

from glotok_ray import artefact
from glotok_ray.config import EncodeRun, with_absolute_paths
from glotok_ray.data.codes import (
    CodeShard,
    read_code_shard,
    write_code_dataset,
    write_code_shard,
)
from glotok_ray.data.records import DatasetInfo, ShardInfo
from glotok_ray.data.transforms import (
    center_crop,
    ten_crop,
    to_model_range,
    with_mirror_images,
)
from glotok_ray.nn.tokenizer import WEIGHTS_FILE
from glotok_ray.on_ray.actor_pool import (
    actor_device,
    image_batches,
    map_shards,
    open_output,
    read_image_shards,
    read_shard,
)
from glotok_ray.training.checkpoint import load_tokenizer, tokenizer_config

logger = logging.getLogger(__name__)

WORK_FOLDER = "work"


def image_views(
    image: UInt8[np.ndarray, "h w 3"], config: EncodeRun, size: int
) -> UInt8[np.ndarray, "views size size 3"]:
    """What is encoded of an image, in the order of the column "view"."""
    if config.views == "ten_crop":
        return ten_crop(image, size, config.crop_scale)
    centre = center_crop(image, size)[np.newaxis]
    return with_mirror_images(centre) if config.views == "center_flip" else centre


class EncodeActor:
    """Encodes one shard after another and writes its codes into `folder`."""

    def __init__(self, config: EncodeRun, folder: str) -> None:
        self._config, self._folder = config, Path(folder)
        self._device = actor_device(config.pool)
        self._tokenizer = load_tokenizer(Path(config.tokenizer_path)).to(self._device)

    def __call__(self, shard: ShardInfo) -> CodeShard:
        """Write the shard's codes; the rows of an image are adjacent, in the order of its views."""
        config, model = self._config, self._tokenizer.config
        size, views = model.autoencoder.image_size, config.num_views
        table = read_shard(Path(config.data_path), shard)
        batches = [
            self._encode(images)
            for images in image_batches(
                table, lambda image: image_views(image, config, size), views, config.pool
            )
        ]
        codes = dict(zip(model.names, np.concatenate(batches, axis=1), strict=True))
        path = self._folder / shard.file
        labels = table["label"].to_numpy()
        return write_code_shard(path, table["key"].to_numpy(), labels, codes, model)

    @torch.inference_mode()
    def _encode(self, images: np.ndarray) -> UInt16[np.ndarray, "codebooks rows positions"]:
        codes = self._tokenizer.encode(to_model_range(images, self._device))
        return codes.transpose(0, 1).flatten(2).cpu().numpy().astype(np.uint16)


def run(config: EncodeRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the folder of codes and return its manifest."""
    dataset = read_image_shards(Path(config.data_path))
    inputs = [config.data_path, config.tokenizer_path]
    output = open_output("codes", config, inputs, fresh=fresh, resumes=True)
    work = output.folder / WORK_FOLDER
    if output.finished is not None:
        shutil.rmtree(work, ignore_errors=True)
        return output.finished
    # Actors run in working directories of their own.
    located = with_absolute_paths(config)
    # Codes of other settings in the same output folder must not be taken for these.
    shards = _encode_shards(work / output.fingerprint[:16], located, dataset)
    _write_facts(output.folder, located, dataset, shards)
    num_images = sum(shard.rows for shard in dataset.shards)
    manifest = artefact.write_manifest(
        output.folder, "codes", output.fingerprint, exclude=(WORK_FOLDER,), num_images=num_images
    )
    shutil.rmtree(work)
    return manifest


def _encode_shards(work: Path, config: EncodeRun, dataset: DatasetInfo) -> list[CodeShard]:
    """The codes of every shard of images, moved from `work` to the output folder once all are there; those that are in
    `work` already are not encoded again.
    """
    work.mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in dataset.shards if not (work / shard.file).is_file()]
    finished = len(dataset.shards) - len(missing)
    if finished:
        logger.info("%d of %d files are finished already", finished, len(dataset.shards))
    made = map_shards(
        missing,
        EncodeActor,
        {"config": config, "folder": str(work)},
        config.pool,
        stage="encode",
        sizes=[shard.rows for shard in missing],
    )
    found = {shard.info.file: shard for shard in made}
    model = tokenizer_config(Path(config.tokenizer_path))
    shards = [
        found.get(shard.file) or read_code_shard(work / shard.file, model)
        for shard in dataset.shards
    ]
    folder = Path(config.output_path)
    for old in folder.glob("*.parquet"):  # of a job of other settings that was killed here
        old.unlink()
    for shard in shards:
        os.replace(work / shard.info.file, folder / shard.info.file)
    return shards


def _write_facts(
    folder: Path, config: EncodeRun, dataset: DatasetInfo, shards: list[CodeShard]
) -> None:
    tokenizer = Path(config.tokenizer_path)
    counts = write_code_dataset(
        folder,
        shards,
        tokenizer_config(tokenizer),
        num_views=config.num_views,
        classes=dataset.classes,
        tokenizer_sha256=artefact.sha256_of(tokenizer / WEIGHTS_FILE),
        details={
            "views": config.views,
            "crop_scale": config.crop_scale if config.views == "ten_crop" else None,
        },
    )
    for name, found in counts.items():
        logger.info("%s codes in use: %d of %d", name, np.count_nonzero(found), len(found))
