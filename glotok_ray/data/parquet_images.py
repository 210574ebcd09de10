"""Hugging Face's Parquet files of images as a listing; a row is read with its row group.

Read next: glotok_ray/data/archive_listing.py
"""

import functools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import pyarrow
import pyarrow.parquet

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.archive_listing import (
    UNLABELLED,
    Found,
    FoundArchive,
    Request,
    found_archive,
    listing_of,
    stamp_of,
)
from glotok_ray.data.class_names import read_class_names
from glotok_ray.data.folders import read_patiently
from glotok_ray.data.image_files import StoredImage, UnreadableImageError
from glotok_ray.data.left_out import OtherFile
from glotok_ray.data.listing import Listing, list_in_threads, printable
from glotok_ray.data.reduction import stored_for
from glotok_ray.storage.places import is_remote, to_path
from glotok_ray.storage.retries import patiently
from glotok_ray.storage.stretches import by_name_or_stream

_BYTES, _PATH, _LABEL = "image.bytes", "image.path", "label"
# Rows of one group come one after another (glotok_ray/data/encoding_order.py), and groups may be large.
_HELD_GROUPS = 1


Result = TypeVar("Result")


class _DamagedParquetError(ValueError):
    """Bytes that are no Parquet of the form that is read; the text says what is wrong."""


def _in_file(read: Callable[[], Result]) -> Result:
    """What `read` reads by pyarrow; raises _DamagedParquetError, or OSError where storage is at fault."""
    try:
        return read()
    except pyarrow.ArrowException as error:
        raise _DamagedParquetError(_one_line(error)) from error
    except OSError as error:
        # pyarrow's own, of bytes that it cannot decode, have no number.
        if error.errno is not None:
            raise
        raise _DamagedParquetError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class ParquetImage(NamedTuple):
    """An image of a Parquet file: row `row` of row group `group`; the size is the mean of its group."""

    key: str
    label: int
    path: str
    group: int
    row: int
    size: int

    def encode(self, run: ShardRun) -> StoredImage:
        """What to store; raises UnreadableImageError."""
        path = to_path(self.path)

        def read() -> bytes:
            try:
                found = _in_file(lambda: _images_of(self.path, self.group)[self.row].as_py())
            except _DamagedParquetError as error:
                raise UnreadableImageError(
                    f"row group {self.group} of {path.name} cannot be read ({error})"
                ) from error
            if found is None:
                raise UnreadableImageError(
                    "the row has no bytes; embed the images in the Parquet files"
                )
            return found

        original = read_patiently(read, path, run.storage_retry_minutes)
        return stored_for(run, original)


@functools.lru_cache(maxsize=_HELD_GROUPS)
def _images_of(path: str, group: int) -> pyarrow.ChunkedArray:
    """The encoded images of a row group."""
    with _opened(to_path(path)) as file:
        column = file.read_row_group(group, columns=[_BYTES]).column("image")
        return pyarrow.chunked_array([chunk.field("bytes") for chunk in column.chunks])


def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
    """The file; of an object its end is requested, and then what is read, neighbouring columns at once."""
    return pyarrow.parquet.ParquetFile(by_name_or_stream(path), pre_buffer=is_remote(path))


def list_parquet(request: Request, files: list[Path]) -> Listing[ParquetImage]:
    """Parquet files with columns image (struct of bytes and path) and label (integer); raises ValueError."""
    names_path = request.run.class_names_path
    names = read_class_names(names_path) if names_path else None
    read = partial(_listed, request.minutes, names is None or not _numbers_alone(names))
    found = list_in_threads(read, files, unit="files")
    return listing_of(request, found, names=names, class_in_names=True)


def _numbers_alone(names: dict[str, str]) -> bool:
    return all(own.isdecimal() for own in names)


def _listed(minutes: float, by_name: bool, path: Path) -> FoundArchive:
    """The images of a file; classes are called as its schema calls them, unless `by_name` is off."""
    stamp = stamp_of(path, minutes)
    try:
        images, left_out = patiently(
            lambda: _in_file(lambda: _rows(path, by_name=by_name)),
            path,
            minutes=minutes,
            doing="listing",
        )
    except _DamagedParquetError as error:
        damage = f"{path.name}: {error}; bring a file of Hugging Face's form, or download it again"
        return found_archive(path.name, [], ParquetImage, [], stamp, damage)
    return found_archive(path.name, images, ParquetImage, left_out, stamp)


def _rows(path: Path, *, by_name: bool) -> tuple[list[Found], list[OtherFile]]:
    images: list[Found] = []
    left_out: list[OtherFile] = []
    text = str(path)
    with _opened(path) as file:
        _check_columns(file.schema_arrow)
        names = _schema_names(file.schema_arrow) if by_name else ()
        columns = [_LABEL, _PATH] if _has_path(file.schema_arrow) else [_LABEL]
        number = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            size = _mean_size(file.metadata.row_group(group))
            labels = table.column(_LABEL).to_pylist()
            for row, (label, name) in enumerate(zip(labels, _names(table), strict=True)):
                file_name = name or f"{path.stem}-{number:07d}"
                number += 1
                if label is None or label < 0 or (names and label >= len(names)):
                    left_out.append(OtherFile(f"{path.name}: {file_name}", "", UNLABELLED))
                    continue
                own = names[label] if names else label
                images.append(Found(own, file_name, (text, group, row, size)))
    return images, left_out


def _names(table: pyarrow.Table) -> list[str]:
    """The file name of each row; empty where there is none."""
    if "image" not in table.column_names:
        return [""] * table.num_rows
    paths = (value["path"] if value else None for value in table.column("image").to_pylist())
    return [printable(PurePosixPath(path).name) if path else "" for path in paths]


def _mean_size(group: Any) -> int:
    columns = (group.column(place) for place in range(group.num_columns))
    total = sum(each.total_uncompressed_size for each in columns if each.path_in_schema == _BYTES)
    return total // max(1, group.num_rows)


def _check_columns(schema: pyarrow.Schema) -> None:
    for name in ("image", _LABEL):
        if schema.get_field_index(name) < 0:
            raise _DamagedParquetError(
                f"has no column {name!r}, only {', '.join(schema.names[:5])}"
            )
    image, label = schema.field("image").type, schema.field(_LABEL).type
    kinds = (pyarrow.types.is_binary, pyarrow.types.is_large_binary)
    is_image = pyarrow.types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not is_image or not any(is_kind(image.field("bytes").type) for is_kind in kinds):
        raise _DamagedParquetError(
            f"column 'image' is of type {image}; must be a struct of bytes (binary) and path"
        )
    if not pyarrow.types.is_integer(label):
        raise _DamagedParquetError(f"column 'label' is of type {label}; must be an integer")


def _has_path(schema: pyarrow.Schema) -> bool:
    return schema.field("image").type.get_field_index("path") >= 0


def _schema_names(schema: pyarrow.Schema) -> tuple[str, ...]:
    """The names of a ClassLabel; none where the schema has none."""
    try:
        facts = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, facts["info"]["features"][_LABEL]["names"]))
    except (ValueError, LookupError, TypeError):
        return ()
