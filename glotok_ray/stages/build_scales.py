"""A finished tokenizer and shards in; a tokenizer of several scales out, on whose codes VAR is trained.

Read next: glotok_ray/teacher/scale_codebook.py
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glotok_ray.config.overrides import bound_settings, with_absolute_paths
from glotok_ray.config.scales import GloTokScalesConfig, ScalesRun
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.data.recorded import check_side, read_image_dataset
from glotok_ray.data.records import DatasetInfo
from glotok_ray.data.shard_reader import read_shard_rows, view_batches
from glotok_ray.data.transforms import center_crop
from glotok_ray.devices import chosen_device
from glotok_ray.interop.tokenizer_card import CARD_FILE
from glotok_ray.peers.glotok_scales import GloTokScales
from glotok_ray.pretrained.peer_tokenizers import write_peer
from glotok_ray.pretrained.tokenizer import load_glotok_tokenizer, tokenizer_config
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import Unfinished
from glotok_ray.storage.places import to_path
from glotok_ray.teacher.scale_codebook import Explained, fit_codebook

logger = logging.getLogger(__name__)

SYSTEM = "glotok_scales"


@ownership.holding()
def run(config: ScalesRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the tokenizer's folder and return its manifest; raises ArtefactError and ValueError for what cannot be
    built, before anything is.
    """
    config = with_absolute_paths(config)
    model_config, dataset = check_inputs(config)
    found = output.look(
        to_path(config.output_path),
        "tokenizer",
        bound_settings(config),
        [to_path(config.tokenizer_path), to_path(config.data_path)],
        fresh=fresh,
        made_by="build_scales",
    )
    if found.finished is not None:
        logger.info("already finished: %s", found.folder)
        return found.finished
    found.begin(Unfinished.REPLACE)
    device = chosen_device(use_gpu=config.use_gpu)
    model = GloTokScales(model_config).requires_grad_(False).eval()
    model.tokenizer.load_state_dict(
        load_glotok_tokenizer(to_path(config.tokenizer_path)).state_dict()
    )
    model.to(device)
    latents = torch.cat(list(_latents(model, config, dataset)))
    explained = fit_codebook(model, latents, config)
    name = to_path(config.tokenizer_path).name
    source = f"scales over the tokenizer {name!r}, clustered of {len(latents)} training crops"
    facts = {"source": source, "explained": explained.shares}
    write_peer(found.folder, model.cpu(), SYSTEM, facts)
    (found.folder / CARD_FILE).write_text(_card(model, source, explained, found.folder.name))
    return found.finish(
        source=source,
        parameters=sum(model.module_parameters().values()),
        explained=explained.shares,
    )


def check_inputs(config: ScalesRun) -> tuple[GloTokScalesConfig, DatasetInfo]:
    """What is built and the facts of the shards; raises ArtefactError and ValueError for folders that are not there,
    that hold something else, or that do not fit.
    """
    model = model_config(config)
    output.check_finished([config.tokenizer_path, config.data_path])
    folder = to_path(config.data_path)
    dataset = read_image_dataset(folder)
    check_side(dataset, folder, model.image_size)
    return model, dataset


def model_config(config: ScalesRun) -> GloTokScalesConfig:
    """The config of what is built; raises ArtefactError and ValueError where the tokenizer does not fit."""
    tokenizer: TokenizerConfig = tokenizer_config(to_path(config.tokenizer_path))
    return GloTokScalesConfig(
        tokenizer=tokenizer, num_codes=config.num_codes, sides=tuple(config.sides)
    )


@torch.inference_mode()
def _latents(model: GloTokScales, config: ScalesRun, dataset: DatasetInfo) -> Iterator[Tensor]:
    """The latents of the centre crops of the first images, on the CPU, batch by batch."""
    device = model.codebook.device
    for images in _crops(config, dataset, model.image_size):
        latents = model.unquantized(to_model_range(images, device))
        if not torch.isfinite(latents).all():
            raise ArtefactError(
                f"{config.tokenizer_path}: gives latents that are not finite; take an earlier checkpoint of it"
            )
        yield latents.float().cpu().clone()


def _crops(config: ScalesRun, dataset: DatasetInfo, side: int) -> Iterator[np.ndarray]:
    left = min(config.num_images, dataset.num_images)
    for shard in dataset.shards:
        rows = min(shard.rows, left)
        left -= rows
        if rows:
            path = to_path(config.data_path) / shard.file
            yield from view_batches(
                read_shard_rows(path, 0, rows, minutes=config.storage_retry_minutes),
                lambda image: center_crop(image, side)[np.newaxis],
                1,
                batch_size=config.batch_size,
                num_threads=config.decoding_threads,
            )


def _card(model: GloTokScales, source: str, explained: Explained, folder: str) -> str:
    rows = "\n".join(
        f"| {side} x {side} | {100 * share:.1f} % |"
        for side, share in zip(model.config.sides, explained.shares, strict=True)
    )
    version = artefact.versions()["git_commit"][:12] or "(no commit known)"
    rate = model.rate
    return (
        f"# Image tokenizer {folder}\n\n{source}, with glotok-ray {version}. {rate.num_indices} indices of "
        f"{model.config.num_codes} codes per image of {model.image_size} x {model.image_size} pixels.\n\n"
        f"Share of the latents' variance that the scales so far stand for:\n\n| scale | share |\n|---|---|\n{rows}\n"
    )
