"""Shards as WebDataset tars: what `shard_images --output-form webdataset` writes, and its rows again.

A sample is NAME.jpg (.png, .webp; the stored bytes), NAME.cls (the label) and NAME.json: the row's key and label, and
the sha256 of its image. NAME is the key as WebDataset can have it. Read next: glotok_ray/data/tar_archives.py
"""

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from glotok_ray.data.forms import WEBDATASET
from glotok_ray.data.records import DATASET, Row, ShardInfo, read_dataset
from glotok_ray.data.tar_archives import Span, TarMember, tar_members
from glotok_ray.storage import artefact

_SUFFIXES = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
IMAGE_SUFFIXES = tuple(suffix for _, suffix in _SUFFIXES)
# A longer description is none of ours.
_LONGEST_JSON = 1 << 20


class TarShardError(ValueError):
    """A sample that is not as this package writes it; the text names it."""


class Sample(NamedTuple):
    """A row's members in a tar."""

    key: str
    label: int
    image: TarMember
    sha256: str
    """Of the image."""


def write_tar_shard(path: Path, rows: Iterable[Row]) -> ShardInfo:
    """Write rows in their order; equal rows give equal bytes. Readers never see half a file."""
    taken: set[str] = set()
    with (
        artefact.hashed_writer(path) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for row in rows:
            name = _sample_name(row.key, taken)
            facts = {
                "key": row.key,
                "label": row.label,
                "sha256": hashlib.sha256(row.image).hexdigest(),
            }
            _add(archive, f"{name}.{_suffix_of(row.image)}", row.image)
            _add(archive, f"{name}.cls", str(row.label).encode())
            _add(archive, f"{name}.json", json.dumps(facts).encode())
    return ShardInfo(path.name, len(taken), stream.sha256)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _suffix_of(image: bytes) -> str:
    """The suffix by which readers choose a decoder: the content decides, not the source's file name."""
    return next((suffix for start, suffix in _SUFFIXES if image.startswith(start)), "jpg")


def _sample_name(key: str, taken: set[str]) -> str:
    """The key without its suffix, as a path inside a tar; WebDataset cuts a file's name at its first dot, so dots
    become underscores, and of equal names the later ones get a number.
    """
    path = PurePosixPath(key)
    *folders, file = [part for part in path.parts if part != "/"]
    stem = PurePosixPath(file).stem.replace(".", "_")
    # Hidden names, and those that point upwards, are read by nobody.
    folders = [f"_{part[1:]}" if part.startswith(".") else part for part in folders]
    name, number = "/".join([*folders, stem or "_"]), 1
    base = name
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    taken.add(name)
    return name


def tar_samples(span: Span, members: Iterable[TarMember]) -> Iterator[Sample]:
    """The rows of a tar that `write_tar_shard` wrote, in order; raises TarShardError."""
    for name, group in itertools.groupby(members, key=lambda member: _split(member.name)[0]):
        parts = {_split(member.name)[1]: member for member in group}
        image = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
        if image is None or "json" not in parts or "cls" not in parts:
            raise TarShardError(
                f"sample {name!r}: has {', '.join(sorted(parts))}; must have an image, cls and json"
            )
        facts = _facts(span, parts["json"], name)
        label = _text(span, parts["cls"])
        if label != str(facts["label"]):
            raise TarShardError(
                f"sample {name!r}: its cls is {label!r} and its json says label {facts['label']!r}"
            )
        yield Sample(facts["key"], facts["label"], image, facts["sha256"])


def _split(name: str) -> tuple[str, str]:
    stem, _, suffix = name.rpartition(".")
    return stem, suffix


def _text(span: Span, member: TarMember) -> str:
    return span.read_at(member.offset, min(member.size, _LONGEST_JSON)).decode(errors="replace")


def _facts(span: Span, member: TarMember, name: str) -> dict[str, Any]:
    kinds: dict[str, type] = {"key": str, "label": int, "sha256": str}
    try:
        facts = json.loads(_text(span, member))
        if all(type(facts[field]) is kind for field, kind in kinds.items()):
            return facts
    except (ValueError, LookupError, TypeError):
        pass
    raise TarShardError(f"sample {name!r}: its json does not say key, label and sha256")


def own_classes(folder: Path) -> tuple[str, ...]:
    """The classes of a folder of tars that this package wrote; none of one of others. Raises ArtefactError."""
    try:
        facts = json.loads((folder / DATASET).read_text(encoding="utf-8"))
        is_own = facts.get("shard_format") == WEBDATASET
    except (OSError, ValueError, AttributeError):
        return ()
    return read_dataset(folder, tars=True).classes if is_own else ()


def read_tar_rows(path: Path) -> Iterator[Row]:
    """The rows of one shard in order; raises TarShardError and DamagedArchiveError."""
    with Span(path, 0.0) as span:
        for sample in tar_samples(span, tar_members(span, path.name)):
            image = span.read_at(sample.image.offset, sample.image.size)
            yield Row(sample.key, image, sample.label)
