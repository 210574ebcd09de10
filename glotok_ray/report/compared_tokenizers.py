"""What is known of a tokenizer's folder beside what is measured: its system, rate, size, and published numbers.

Read next: glotok_ray/report/tokenizer_table.py
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from glotok_ray.data.recorded import check_side, read_image_dataset
from glotok_ray.data.records import DatasetInfo
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.tokenizer_protocol import Rate
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.released import CropProtocol, PSNRProtocol, Released
from glotok_ray.peers.systems import SYSTEMS
from glotok_ray.pretrained.tokenizer import (
    CONFIG_FILE,
    SYSTEM,
    check_stored_tokenizer,
    empty_tokenizer,
)
from glotok_ray.report.compared_folders import folders_there
from glotok_ray.report.published import published_numbers
from glotok_ray.report.tokenizer_table import TokenizerRow
from glotok_ray.storage import artefact, output
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

# Layouts of imported files of our own kind, and the rows of the paper's Table 1 that quote their authors' numbers.
_METHODS = {"llamagen": "LlamaGen", "fqgan": "FQGAN-Dual"}
_LAYOUT = re.compile(r"\((\w+) names")


@dataclass(frozen=True, kw_only=True)
class ComparedTokenizer:
    """A finished tokenizer's folder."""

    folder: Path
    name: str
    system: str
    """As in `TokenizerRow`."""
    model: GloTokTokenizer | PeerTokenizer
    """Without numbers."""
    psnr_protocol: PSNRProtocol
    crop_protocol: CropProtocol
    feature_pixels: Literal["rounded", "truncated", "unrounded"]
    published: Released | None
    licence: str


def compared_tokenizers(config: EvaluateTokenizersRun) -> list[ComparedTokenizer]:
    """What is known of the tokenizers without their weights; raises ArtefactError for folders that are none, unless
    they are missing and may be, or that come twice.
    """
    paths = folders_there(
        config.tokenizer_paths,
        "tokenizer_paths",
        skip_missing=config.skip_missing,
        remedy="import one with jobs.export_tokenizer",
    )
    return [read_compared(to_path(path)) for path in paths]


def check_crops(
    config: EvaluateTokenizersRun, compared: Sequence[ComparedTokenizer]
) -> DatasetInfo:
    """The facts of the shards; raises ArtefactError where they are too few, and for crops that a tokenizer does not
    take or that are larger than the stored images.
    """
    folder = to_path(config.data_path)
    output.check_finished([config.data_path])
    dataset = read_image_dataset(folder)
    if config.num_images > dataset.num_images:
        raise ArtefactError(
            f"num_images = {config.num_images}: {folder} holds {dataset.num_images} images; lower it, 0 takes all"
        )
    if (config.num_images or dataset.num_images) < 2:
        raise ArtefactError(
            f"num_images = {config.num_images}: of {folder} 1 image is taken; Frechet distances need at least 2: take "
            "more, 0 takes all"
        )
    for one in compared:
        side = config.image_size or one.model.image_size
        fitting_rate(one, side)
        try:
            check_side(dataset, folder, side)
        except ArtefactError as error:
            raise ArtefactError(f"{error}{_smaller(config, compared, dataset)}") from None
    return dataset


def _smaller(
    config: EvaluateTokenizersRun, compared: Sequence[ComparedTokenizer], dataset: DatasetInfo
) -> str:
    """How to measure on images that are stored too small: at another side, where all tokenizers take one."""
    multiples = [one.model.side_multiple for one in compared]
    if None in multiples:
        return ""
    step = math.lcm(*(multiple for multiple in multiples if multiple))
    side = dataset.image_size // step * step
    if not side or side == config.image_size:
        return ""
    return f"; or pass --image-size {side}, which all of these tokenizers take, and all are measured on smaller crops"


def read_compared(folder: Path) -> ComparedTokenizer:
    """Read config.json; raises ArtefactError for a folder that holds no tokenizer of this version."""
    artefact.read_manifest(folder, "tokenizer")
    stored = artefact.read_json(folder / CONFIG_FILE)
    check_stored_tokenizer(folder)
    model = empty_tokenizer(folder)
    if SYSTEM in stored:
        entry = SYSTEMS[stored[SYSTEM]]
        return ComparedTokenizer(
            folder=folder,
            name=folder.name,
            system=stored[SYSTEM],
            model=model,
            psnr_protocol=entry.psnr_protocol,
            crop_protocol=entry.crop_protocol,
            feature_pixels=entry.feature_pixels,
            published=entry.released.get(stored.get("released", "")),
            licence=entry.licence,
        )
    layout = _LAYOUT.search(str(stored.get("source", "")))
    system = layout[1] if layout else ""
    return ComparedTokenizer(
        folder=folder,
        name=folder.name,
        system=system,
        model=model,
        psnr_protocol="rounded",
        crop_protocol="plain_bilinear" if system == "taming" else "adm",
        feature_pixels="rounded",
        published=_quoted(system, model),
        licence="",
    )


def fitting_rate(one: ComparedTokenizer, side: int) -> Rate:
    """What crops of that side cost; raises ArtefactError where the tokenizer does not take them."""
    model = one.model
    if side == model.image_size:
        return model.rate
    multiple = model.side_multiple
    if multiple is None or side % multiple:
        rule = f"multiples of {multiple}" if multiple else f"{model.image_size} alone"
        raise ArtefactError(
            f"image_size = {side}: {one.folder} takes {rule}; give another, or 0 for each one's own"
        )
    return model.rate.scaled(side / model.image_size)


def row_of(one: ComparedTokenizer, side: int, metrics: Mapping[str, float]) -> TokenizerRow:
    """The tokenizer's row."""
    rate, published = fitting_rate(one, side), one.published
    return TokenizerRow(
        name=one.name,
        system=one.system,
        image_size=side,
        indices=rate.num_indices,
        bits=rate.bits,
        parameters=sum(value.numel() for value in one.model.parameters()),
        published_rfid=published.rfid if published else None,
        published_psnr=published.psnr if published else None,
        published_in=published.source if published else "",
        psnr_protocol=one.psnr_protocol,
        crop_protocol=one.crop_protocol,
        feature_pixels=one.feature_pixels,
        licence=one.licence,
        metrics=dict(metrics),
    )


def _quoted(system: str, model: GloTokTokenizer | PeerTokenizer) -> Released | None:
    """The numbers that the paper quotes of an imported tokenizer; None for a model of another size than the paper's."""
    if system not in _METHODS or (model.image_size, model.side_multiple) != (256, 16):
        return None
    found = {
        number.column: number
        for number in published_numbers()
        if number.table == 1 and number.method == _METHODS[system]
    }
    return Released(None, "", found["rFID"].value, found["PSNR"].value, found["rFID"].source)
