"""Tokenizers of any system on the same crops, one after the other in one process: a table and a grid.

What was measured of a tokenizer lies in the output folder at once, so that a killed job goes on with the next.
Read next: glotok_ray/evaluation/tokenizer_comparison.py
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import bound_settings, to_dict, with_absolute_paths
from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import DatasetInfo
from glotok_ray.devices import chosen_device
from glotok_ray.evaluation.extractors import (
    Network,
    build_extractors,
    build_lpips,
    file_digests,
    networks_of,
)
from glotok_ray.evaluation.tokenizer_comparison import OwnProtocol, RealCrops, measure_tokenizer
from glotok_ray.nn.tokenizer_protocol import Tokenizer
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE, load_tokenizer
from glotok_ray.report import grids
from glotok_ray.report.compared_tokenizers import (
    ComparedTokenizer,
    check_crops,
    compared_tokenizers,
    row_of,
)
from glotok_ray.report.comparisons import (
    CSV_FILE,
    GRID_FILE,
    KIND,
    METRICS_FILE,
    TABLE_FILE,
    Part,
    part,
)
from glotok_ray.report.tokenizer_table import TokenizerRow, comma_separated, markdown
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.output import Unfinished
from glotok_ray.storage.places import writing

logger = logging.getLogger(__name__)


@ownership.holding()
def run(config: EvaluateTokenizersRun, *, fresh: bool = False) -> dict[str, Any]:
    """Measure all, write table, CSV, metrics and grid; returns the manifest. Raises ArtefactError and ValueError for
    what cannot be measured, before anything is.
    """
    config = with_absolute_paths(config)
    compared = compared_tokenizers(config)
    dataset = check_crops(config, compared)
    inputs = [*(str(one.folder) for one in compared), config.data_path]
    # Parts are numbered in this order.
    weights = {"weights_sha256": [_weights_digest(one.folder) for one in compared]}
    settings = bound_settings(config) | file_digests(_networks_config(config)) | weights
    found = output.begin(
        config.output_path, KIND, settings, inputs, fresh=fresh, unfinished=Unfinished.SAME_ONLY
    )
    if found.finished is not None:
        return found.finished
    device = chosen_device(use_gpu=config.use_gpu)
    networks = _measure_missing(config, compared, dataset, found.folder, device)
    parts = [part(found.folder, place) for place in range(len(compared))]
    rows = [TokenizerRow(**artefact.read_json(one.row)) for one in parts]
    protocol = _protocol(config, dataset, networks, device)
    _write(found.folder, rows, parts, protocol)
    return found.finish(
        rows=len(rows),
        num_images=config.num_images or dataset.num_images,
        protocol=protocol,
        config=to_dict(config),
    )


def _measure_missing(
    config: EvaluateTokenizersRun,
    compared: Sequence[ComparedTokenizer],
    dataset: DatasetInfo,
    folder: Path,
    device: torch.device,
) -> list[Network]:
    """Measure what is not measured yet; returns what is said of the feature networks."""
    networks = _networks_config(config)
    extractors = build_extractors(networks, device)
    lpips = build_lpips(networks, device)
    crops = RealCrops(config, dataset, extractors)
    for place, one in enumerate(compared):
        files = part(folder, place)
        if files.row.is_file():
            logger.info("%s is measured already", one.name)
            continue
        measured = measure_tokenizer(
            _loaded(one.folder, device),
            crops,
            protocol=OwnProtocol(one.psnr_protocol, one.crop_protocol, one.feature_pixels),
            lpips=lpips,
            device=device,
        )
        files.row.parent.mkdir(exist_ok=True)
        side = config.image_size or one.model.image_size
        inputs = crops.first(side)
        with writing(files.pictures) as local:
            np.savez(local, inputs=inputs, reconstructions=measured.pictures)
        # Last: it says that the part is whole.
        artefact.write_json(files.row, vars(row_of(one, side, measured.metrics)))
        logger.info("%s: %s", one.name, measured.metrics)
    return networks_of(extractors)


def _loaded(folder: Path, device: torch.device) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, nn.Module)
    return tokenizer.to(device)  # type: ignore[return-value]


def _weights_digest(folder: Path) -> str:
    return artefact.stated_manifest(folder)["files"][WEIGHTS_FILE]["sha256"]


def _networks_config(config: EvaluateTokenizersRun) -> EvaluateRun:
    """The feature networks' settings as evaluations have them."""
    return EvaluateRun(
        feature_size=config.feature_size,
        inception_path=config.inception_path,
        lpips_path=config.lpips_path,
        lpips_backbone=config.lpips_backbone,
    )


def _protocol(
    config: EvaluateTokenizersRun,
    dataset: DatasetInfo,
    networks: Sequence[Network],
    device: torch.device,
) -> str:
    """How all of the table was measured, in sentences."""
    count = config.num_images or dataset.num_images
    names = ", ".join(f"{network.name} ({network.input_contract})" for network in networks)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    return (
        f"All rows: the same {count:,} validation images, {crops_text(dataset)}, in fp32. Reconstructions are clipped "
        "and rounded to 8 bits; PSNR and SSIM are per image on RGB, averaged; Frechet distances are between "
        f"reconstructions and the same crops, in {names}. Speeds are images per second in batches of "
        f"{config.batch_size} on {place}, without the first batch. Bits per image are indices times the logarithm of "
        "the number of codes. Columns of an own protocol are cut and scored as the tokenizer's authors do, which the "
        "sources say; images that are crops of that side already are cut no more."
    )


def _write(
    folder: Path, rows: Sequence[TokenizerRow], parts: Sequence[Part], protocol: str
) -> None:
    title = "Tokenizers under one protocol"
    text = markdown(rows, title=title, protocol=protocol)
    (folder / TABLE_FILE).write_text(text, encoding="utf-8")
    (folder / CSV_FILE).write_text(comma_separated(rows), encoding="utf-8")
    metrics = {row.name: {**row.metrics, "indices": row.indices, "bits": row.bits} for row in rows}
    artefact.write_json(folder / METRICS_FILE, metrics)
    images, labels = _grid(rows, parts)
    grids.write_grid(
        folder / GRID_FILE,
        np.concatenate(images),
        columns=len(images[0]),
        row_labels=labels,
        title=title,
    )


def _grid(
    rows: Sequence[TokenizerRow], parts: Sequence[Part]
) -> tuple[list[np.ndarray], list[str]]:
    """The same crops through every tokenizer, one row each; all at the side of the first."""
    with np.load(at_hand(parts[0].pictures)) as first:
        images, labels = [first["inputs"]], ["crops"]
    side = images[0].shape[1]
    for row, one in zip(rows, parts, strict=True):
        with np.load(at_hand(one.pictures)) as found:
            images.append(grids.resized(found["reconstructions"], side))
        labels.append(row.name)
    return images, labels
