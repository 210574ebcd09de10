"""Features of real images that outlive an evaluation: those of the validation crops, the training crops and the
reference's images, by network, in folders whose names are hashes of everything that they depend on.

Class shares, nearest neighbours, KID, precision and recall need the features themselves, so these are kept and not
their moments alone. Read next: glotok_ray/evaluation/statistics_cache.py
"""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import PIL
import torch

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.evaluation.extractors import REFERENCE_SHA256, Network
from glotok_ray.evaluation.inputs import encoding_tokenizer, takes_training_codes
from glotok_ray.evaluation.parts import finished_parts, planned_part
from glotok_ray.evaluation.plan import REFERENCE, TRAINING, VALIDATION, Block
from glotok_ray.evaluation.statistics_cache import (
    StatisticsKey,
    read_statistics,
    statistics_path,
    write_statistics,
)
from glotok_ray.evaluation.streams import MeasuredImages, PartSet
from glotok_ray.evaluation.units import KeptPart, Unit
from glotok_ray.metrics.frechet import FeatureSummary, summarize
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

_KINDS = {
    VALIDATION: "validation crops",
    TRAINING: "training crops",
    REFERENCE: "images of the reference",
}


class KeptNetwork(NamedTuple):
    """The features of one network for all images of one kind, there or to come."""

    kind: str
    network: Network
    key: StatisticsKey
    folder: Path


def kept_networks(
    config: EvaluateRun,
    networks: Sequence[Network],
    blocks: Sequence[Block],
    image_size: int,
    digests: Mapping[str, str],
) -> list[KeptNetwork]:
    """What is kept of an evaluation in its statistics_path; nothing where that is empty. `digests` are those of
    `file_digests`.
    """
    if not config.statistics_path:
        return []
    by_kind: dict[str, list[Block]] = {}
    for block in blocks:
        has_features = block.kind != TRAINING or config.samples_path
        if block.kind in _KINDS and has_features:
            by_kind.setdefault(block.kind, []).append(block)
    kept = []
    for kind, own in by_kind.items():
        source = _source(kind, config, image_size, digests)
        names = _image_ids(own)
        for network in networks:
            key = StatisticsKey.of(
                network,
                crop=source.crop,
                image_ids=names,
                dataset=source.sha256,
                computed=_computed(config),
            )
            folder = to_path(config.statistics_path) / f"features-{key.sha256[:16]}"
            kept.append(KeptNetwork(kind, network, key, folder))
    return kept


class _Source(NamedTuple):
    """Where images of a kind come from."""

    sha256: str
    crop: str


def _source(kind: str, config: EvaluateRun, image_size: int, digests: Mapping[str, str]) -> _Source:
    if kind == REFERENCE:
        return _Source(digests[REFERENCE_SHA256], "as stored")
    folder = to_path(config.data_path if kind == VALIDATION else config.training_path)
    dataset = read_dataset(folder)
    return _Source(_dataset_sha256(dataset), f"{crops_text(dataset)}, {image_size} pixels")


def _dataset_sha256(dataset: DatasetInfo) -> str:
    """Of the names and digests of all shards: the images themselves, wherever they lie."""
    digest = hashlib.sha256()
    for shard in dataset.shards:
        digest.update(f"{shard.file}\0{shard.rows}\0{shard.sha256}\n".encode())
    return digest.hexdigest()


def _image_ids(blocks: Sequence[Block]) -> list[str]:
    """Shard and row of each image, in order."""
    return [
        f"{block.file}:{row}"
        for block in blocks
        for row in (range(block.start, block.stop) if block.rows is None else block.rows.tolist())
    ]


def _computed(config: EvaluateRun) -> str:
    pool = config.pool
    # What is kept of "GPU" alone is of convolutions in TF32.
    device = "GPU in fp32" if pool.use_gpu else "CPU"
    return f"{device}, batches of {pool.batch_size}, torch {torch.__version__}, Pillow {PIL.__version__}"


# ---------------------------------------------------------------------------------------- units of work


def with_kept(
    units: Sequence[Sequence[Block]],
    kept: Sequence[KeptNetwork],
    config: EvaluateRun,
    fingerprint: str,
) -> list[Unit]:
    """The units of an evaluation whose settings have the `fingerprint`, with the parts that each becomes."""
    made_of = set()
    if encoding_tokenizer(config) is not None:
        made_of.add(VALIDATION)
    if takes_training_codes(config):
        made_of.add(TRAINING)
    planned = []
    for unit in units:
        kind = unit[0].kind
        parts = tuple(
            KeptPart(one.network.key, str(one.folder), planned_part(unit, one.key.sha256))
            for one in kept
            if one.kind == kind
        )
        # Of images from which nothing is made, features and labels are all there is.
        is_all_kept = bool(parts) and kind not in made_of
        own = None if is_all_kept else planned_part(unit, fingerprint)
        planned.append(Unit(unit, own, parts))
    return planned


def kept_sets(units: Sequence[Unit], kept: Sequence[KeptNetwork]) -> list[PartSet]:
    """The parts of each kept network; their folders are made."""
    sets = []
    for one in kept:
        one.folder.mkdir(parents=True, exist_ok=True)
        parts = [
            part.part for unit in units for part in unit.kept if part.folder == str(one.folder)
        ]
        sets.append(PartSet(one.folder, parts, one.key))
    return sets


def missing_units(
    units: Sequence[Unit], finished: Collection[str], sets: Sequence[PartSet]
) -> list[Unit]:
    """The units of which a part is missing, each with the networks whose features are there; `finished` are the names
    of the evaluation's own whole parts. Says in one line what is used again.
    """
    there = {str(one.folder): finished_parts(one.folder, one.planned) for one in sets}
    _tell(sets, there)
    missing = []
    for unit in units:
        done = frozenset(part.network for part in unit.kept if part.part.name in there[part.folder])
        is_own_there = unit.part is None or unit.part.name in finished
        if not is_own_there or len(done) < len(unit.kept):
            missing.append(unit._replace(done=done))
    return missing


def _tell(sets: Sequence[PartSet], there: dict[str, set[str]]) -> None:
    used = []
    for one in sets:
        names = there[str(one.folder)]
        count = sum(part.stop - part.start for part in one.planned if part.name in names)
        if count and one.key is not None:
            used.append(f"{count} {_KINDS[one.planned[0].kind]} by {one.key.extractor}")
    if used:
        logger.info("features are used again from %s: %s", sets[0].folder.parent, ", ".join(used))


# ---------------------------------------------------------------------------------------- moments


def summary_of(images: MeasuredImages, name: str) -> FeatureSummary:
    """What Frechet distances need of an array of features, kept moments where there are such."""
    place = images.kept(name)
    if place is None or place.key is None:
        return summarize(images.blocks(name))
    output = name.split(".", 1)[1]
    key = place.key.only(output)
    folder = place.folder.parent
    try:
        found = read_statistics(folder, key)
    except ArtefactError as error:
        logger.warning("%s; it is computed again", str(error).split("; remove the file")[0])
        statistics_path(folder, key).unlink(missing_ok=True)
        found = None
    if found is not None:
        return FeatureSummary(None, found[output])
    summary = summarize(images.blocks(name))
    if summary.moments is not None:
        write_statistics(folder, key, {output: summary.moments})
    return summary
