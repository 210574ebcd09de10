"""Which rows of a damaged shard are damaged, and how: for `jobs.verify`, which has found that its bytes differ.

Every page of a shard's column has a checksum, and a page holds one image, so a flipped byte is one row's. Rows whose
checksums hold (or that an older version wrote without) are decoded. Read next: glotok_ray/data/verification.py
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from glotok_ray.data.records import check_columns, decode_image
from glotok_ray.data.tar_archives import DamagedArchiveError, Span, TarMember, tar_members
from glotok_ray.data.tar_shards import TarShardError, tar_samples
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import copy_file, is_remote

_NAMED = 3
_COLUMNS = ("key", "label", "image")


class DamagedRow(NamedTuple):
    """A row of a shard; the key is empty where its own bytes are damaged."""

    row: int
    key: str
    reason: str

    def __str__(self) -> str:
        key = f" (key {self.key!r})" if self.key else ""
        return f"row {self.row}{key}: {self.reason}"


def damaged_rows_text(path: Path, num_classes: int, *, tar: bool) -> str:
    """The first damaged rows of a shard and what is wrong with them, in one line; what is known of the file where its
    rows cannot be told apart.
    """
    find = _in_tar if tar else _in_parquet
    found: list[str] = []
    local = path
    try:
        with _local_copy(path) as local:
            found += map(str, find(local, num_classes))
    except (DamagedArchiveError, ArtefactError) as error:
        found.append(str(error).removeprefix(f"{local}: "))
    except (OSError, pyarrow.ArrowException) as error:
        found.append(f"cannot be read as {'a tar' if tar else 'Parquet'} ({_one_line(error)})")
    if not found:
        return "all of its rows can be read and decoded"
    more = len(found) - _NAMED
    return "; ".join(found[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _local_copy(path: Path) -> Iterator[Path]:
    """The file itself, or of an object a temporary copy: the node's cache takes no damaged ones."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="glotok-read-") as folder:
        local = Path(folder) / path.name
        copy_file(path, local)
        yield local


# ------------------------------------------------------------------------------------------ Parquet


def _in_parquet(path: Path, num_classes: int) -> Iterator[DamagedRow]:
    with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        check_columns(path, file.schema_arrow)
        start = 0
        for group in range(file.num_row_groups):
            yield from _in_group(file, group, start, num_classes)
            start += file.metadata.row_group(group).num_rows


def _in_group(
    file: pyarrow.parquet.ParquetFile, group: int, start: int, num_classes: int
) -> Iterator[DamagedRow]:
    columns = {name: list(_values(file, group, name)) for name in _COLUMNS}
    keys = columns["key"]
    size = file.metadata.row_group(group).num_rows
    for row in range(size):
        # A column ends at the row of its first page that cannot be read.
        broken = [name for name, values in columns.items() if len(values) == row < size]
        key = keys[row] if row < len(keys) else ""
        if broken:
            rest = size - row - 1
            reason = f"the bytes of its {broken[0]} fail their checksum"
            if rest:
                reason += f", and the {rest} behind it in row group {group} were not looked at"
            yield DamagedRow(start + row, key, reason)
            return
        reason = _wrong(columns["image"][row], columns["label"][row], key, num_classes)
        if reason:
            yield DamagedRow(start + row, key, reason)


def _values(file: pyarrow.parquet.ParquetFile, group: int, name: str) -> Iterator[Any]:
    """The values of a column of a row group, up to the first that cannot be read."""
    batches = file.iter_batches(batch_size=1, row_groups=[group], columns=[name])
    try:
        for batch in batches:
            yield from batch.column(0).to_pylist()
    except (OSError, pyarrow.ArrowException):
        return


def _wrong(image: bytes, label: int, key: str, num_classes: int) -> str:
    if not 0 <= label < num_classes:
        return f"its label {label} is none of {num_classes} classes"
    try:
        decode_image(image, key)
    except ArtefactError as error:
        return _reason_of(error)
    return ""


def _reason_of(error: ArtefactError) -> str:
    # The row is named already, and so is the remedy.
    _, _, text = str(error).partition("': ")
    return text.rpartition(";")[0] or str(error)


# ------------------------------------------------------------------------------------------ tars


def _in_tar(path: Path, num_classes: int) -> Iterator[DamagedRow]:
    with Span(path, 0.0) as span:
        row = -1
        try:
            for row, sample in enumerate(tar_samples(span, _safe(tar_members(span, path.name)))):
                image = span.read_at(sample.image.offset, sample.image.size)
                if hashlib.sha256(image).hexdigest() != sample.sha256:
                    yield DamagedRow(
                        row, sample.key, "the bytes of its image differ from their sha256"
                    )
                elif reason := _wrong(image, sample.label, sample.key, num_classes):
                    yield DamagedRow(row, sample.key, reason)
        except TarShardError as error:
            yield DamagedRow(row + 1, "", str(error))


def _safe(members: Iterator[TarMember]) -> Iterator[TarMember]:
    for member in members:
        if member.refusal:
            raise TarShardError(f"member {member.name!r} is {member.refusal}")
        yield member


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
