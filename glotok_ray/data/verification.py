"""All bytes of finished folders against their manifests, and of data sets against dataset.json too.

Read next: glotok_ray/storage/artefact.py
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow

from glotok_ray.data.forms import WEBDATASET
from glotok_ray.data.records import (
    DATASET,
    DatasetInfo,
    ShardInfo,
    check_contents,
    read_dataset,
    read_description,
)
from glotok_ray.data.shard_damage import damaged_rows_text
from glotok_ray.progress import ProgressLine
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.digests import ReadFile, read_files
from glotok_ray.storage.places import is_remote

logger = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """What was found in a folder with a manifest; `damage` has a line per damaged file."""

    folder: Path
    kind: str
    files: int
    bytes: int
    damage: list[str]


def manifest_folders(folder: Path) -> list[Path]:
    """The folder and those below it that hold a manifest: a data set, a run with its checkpoints, a whole quickstart.

    Links are followed, each folder once; one that leads nowhere is told. Hidden folders are unfinished work and left
    out. Raises ArtefactError when there is none.
    """
    if not folder.is_dir():
        raise ArtefactError(f"{folder}: no such folder; correct the path")
    found = [place for place in _with_manifest(folder) if _is_ours(place)]
    if not found:
        raise ArtefactError(
            f"{folder}: holds nothing finished (no {artefact.MANIFEST} in it or below it); correct the path, or run "
            "the job that writes it"
        )
    return found


def _with_manifest(folder: Path) -> list[Path]:
    if is_remote(folder):
        manifests = folder.rglob(artefact.MANIFEST)
        seen = [path.parent for path in manifests]
        return [
            place
            for place in sorted(seen)
            if not any(part.startswith(".") for part in place.relative_to(folder).parts)
        ]
    found: list[Path] = []
    walked: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        # A link may lead to a folder above it, or two to one.
        real = os.path.realpath(place)
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in files):
            if path.is_symlink() and not path.exists():
                logger.warning("%s: is a link to nothing, of which nothing is verified", path)
        if artefact.MANIFEST in files:
            found.append(Path(place))
    return found


def _is_ours(folder: Path) -> bool:
    """Whether the manifest is one of this package, or may have been before it was damaged."""
    try:
        values = artefact.read_json(folder / artefact.MANIFEST)
    except ArtefactError:
        return True
    return isinstance(values, dict) and not values.keys().isdisjoint(("kind", "fingerprint"))


def verify_folder(folder: Path) -> Verdict:
    """Read every file that the manifest lists; leave a receipt when all are whole, and none when one is not."""
    try:
        manifest = artefact.stated_manifest(folder)
    except ArtefactError as error:
        return _measured(folder, Verdict(folder, "", 0, 0, [str(error)]), {})
    listed = {name: (facts["bytes"], facts["sha256"]) for name, facts in manifest["files"].items()}
    size = sum(length for length, _ in listed.values())
    paths = [folder / name for name in listed]
    found = dict(zip(listed, read_files(paths, _progress(folder, size)), strict=True))
    damage = {
        name: artefact.damage_text(read.path, missing=not read.path.exists(), error=read.error)
        for name, read in found.items()
        if (read.stamp.bytes, read.sha256) != listed[name]
    }
    if DATASET in listed and DATASET not in damage:
        damage = _with_rows(folder, damage)
        damage |= _dataset_damage(folder, found, damage)
    verdict = Verdict(folder, manifest["kind"], len(listed), size, list(damage.values()))
    return _measured(folder, verdict, found)


def _with_rows(folder: Path, damage: Mapping[str, str]) -> dict[str, str]:
    """The texts, and for shards of images that are there, which rows are damaged."""
    if not damage:
        return {}
    try:
        dataset = read_description(folder)
    except ArtefactError:
        return dict(damage)
    shards = {shard.file for shard in dataset.shards if dataset.kind == "shards"}
    tar = dataset.shard_format == WEBDATASET
    return {
        name: f"{text}; damaged: {damaged_rows_text(folder / name, len(dataset.classes), tar=tar)}"
        if name in shards and (folder / name).is_file()
        else text
        for name, text in damage.items()
    }


def _measured(folder: Path, verdict: Verdict, found: Mapping[str, ReadFile]) -> Verdict:
    try:
        if verdict.damage:
            (folder / artefact.RECEIPT).unlink(missing_ok=True)
        else:
            artefact.write_receipt(folder, {name: read.stamp for name, read in found.items()})
    except OSError as error:
        logger.warning("%s: its %s cannot be changed (%s)", folder, artefact.RECEIPT, error)
    return verdict


def _dataset_damage(
    folder: Path, found: Mapping[str, ReadFile], known: Mapping[str, str]
) -> dict[str, str]:
    """Where dataset.json and the shards differ, by file; shards of `known` damage are left out."""
    try:
        dataset = read_dataset(folder, tars=True)
    except ArtefactError as error:
        return {} if known else {DATASET: str(error)}
    texts = {
        shard.file: _shard_damage(folder, shard, found.get(shard.file), dataset)
        for shard in dataset.shards
        if shard.file not in known
    }
    return {name: text for name, text in texts.items() if text}


def _shard_damage(
    folder: Path, shard: ShardInfo, read: ReadFile | None, dataset: DatasetInfo
) -> str:
    path = folder / shard.file
    if read is None:
        return f"{path}: listed in {DATASET} but not in {artefact.MANIFEST}; rebuild the folder with --fresh"
    if read.sha256 != shard.sha256:
        return f"{path}: differs from its sha256 in {DATASET}; restore it or rebuild the folder with --fresh"
    if dataset.shard_format == WEBDATASET:
        return ""
    try:
        check_contents(path, shard, dataset)
    except ArtefactError as error:
        return str(error)
    except (OSError, pyarrow.ArrowException) as error:
        return f"{path}: cannot be read as Parquet ({error}); rebuild the folder with --fresh"
    return ""


def _progress(folder: Path, size: int) -> Callable[[int], None]:
    """A progress line in MiB that threads may call."""
    line, lock, done = ProgressLine(f"verify {folder}", -(-size >> 20), "MiB"), threading.Lock(), 0
    line.update(0)

    def report(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            line.update(done >> 20)

    return report
