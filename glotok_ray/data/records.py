"""Parquet shards of images, and dataset.json, which describes a folder of shards (images or codes).

A row is key (unique string), image (encoded PNG, JPEG or WebP bytes) and label (class index).
Read next: glotok_ray/data/training_rows.py
"""

import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from glotok_ray.data.code_layout import CodeColumn
from glotok_ray.data.dataset_fields import code_fields, field_of, image_fields
from glotok_ray.data.dataset_info import DatasetInfo, ShardInfo
from glotok_ray.data.forms import PARQUET, WEBDATASET
from glotok_ray.data.image_files import READER_PIXELS
from glotok_ray.data.image_places import PlacingStream
from glotok_ray.data.jpeg_decoding import is_exact, jpeg_pixels, jpeg_size
from glotok_ray.data.shard_plan import CHUNK_ROWS
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand

# Originals keep their metadata; what Pillow thinks of odd blocks says nothing about the pixels.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

DATASET = "dataset.json"
SCHEMA = pyarrow.schema(
    [
        pyarrow.field("key", pyarrow.string(), nullable=False),
        pyarrow.field("image", pyarrow.binary(), nullable=False),
        pyarrow.field("label", pyarrow.int32(), nullable=False),
    ]
)

# What the training plan reads at once; small groups also bound the memory of a writer and of a reader that streams.
_ROWS_PER_GROUP = CHUNK_ROWS


class Row(NamedTuple):
    """One image of a shard."""

    key: str
    image: bytes
    label: int


def encode_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Lossless bytes of an RGB image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def decode_image(encoded: bytes, key: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a row's image to RGB; raises ArtefactError that names the row's key."""
    pixels = _plain_jpeg(encoded)
    return np.array(_by_pillow(encoded, key)) if pixels is None else pixels


def open_image(encoded: bytes, key: str) -> Image.Image:
    """The same as Pillow's image."""
    pixels = _plain_jpeg(encoded)
    return _by_pillow(encoded, key) if pixels is None else Image.fromarray(pixels)


def _plain_jpeg(encoded: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """What Pillow would decode, the fast way; None where it must do so itself."""
    size = jpeg_size(encoded)
    if size is None or size[0] * size[1] > READER_PIXELS or not is_exact():
        return None
    return jpeg_pixels(encoded)


def _by_pillow(encoded: bytes, key: str) -> Image.Image:
    try:
        # Not in a `with`, which would hold the file's pixels beside their copy.
        image = Image.open(io.BytesIO(encoded))
        if image.mode != "RGB":
            return image.convert("RGB")
        image.load()
        return image
    except UnidentifiedImageError:
        # Pillow's own text has the address of a stream, another one at each reading.
        reason = "no image of a format that Pillow knows"
        raise ArtefactError(_undecoded(key, reason)) from None
    # Pillow's plugins raise many kinds of errors on damaged bytes.
    except Exception as error:
        raise ArtefactError(_undecoded(key, _reason(error))) from error


def _undecoded(key: str, reason: str) -> str:
    return f"row {key!r}: its image cannot be decoded ({reason}); rebuild the shards with --fresh"


def write_shard(path: Path, rows: Iterable[Row]) -> ShardInfo:
    """Write rows in their order; equal rows give equal bytes. Readers never see half a file."""
    count = 0
    # Images are compressed already; their bytes make neither dictionaries nor statistics useful.
    options: dict[str, Any] = {
        "compression": "NONE",
        "use_dictionary": False,
        "write_statistics": ["key", "label"],
        # A checksum for every page, and a page for every image: who reads a few rows need not trust the rest, and
        # damage is one row's.
        "write_page_checksum": True,
        "write_batch_size": 1,
        "data_page_size": 1024,
    }
    with artefact.hashed_writer(path) as stream:
        placing = PlacingStream(stream)
        with pyarrow.parquet.ParquetWriter(placing, SCHEMA, **options) as writer:
            for group in _groups(rows):
                columns = dict(zip(Row._fields, zip(*group, strict=True), strict=True))
                writer.write_table(pyarrow.table(columns, schema=SCHEMA))
                placing.end_group([row.image for row in group])
                count += len(group)
            writer.add_key_value_metadata(placing.metadata())
    return ShardInfo(path.name, count, stream.sha256)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one shard in order; raises ArtefactError for a file that is not such a shard."""
    try:
        file = pyarrow.parquet.ParquetFile(at_hand(path))
    except (OSError, pyarrow.ArrowException) as error:
        raise ArtefactError(
            f"{path}: cannot be read as Parquet ({_reason(error)}); rebuild it with --fresh"
        ) from None
    with file:
        check_columns(path, file.schema_arrow)
        for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=list(Row._fields)):
            yield from (Row(**values) for values in batch.to_pylist())


def write_dataset(
    folder: Path,
    *,
    classes: Iterable[str],
    form: str,
    image_size: int,
    shards: Iterable[ShardInfo],
    details: dict[str, Any],
) -> None:
    """Write the dataset.json of image shards; `details` adds provenance, such as the files left out."""
    shards = list(shards)
    facts = {
        "kind": "shards",
        "classes": list(classes),
        "num_images": sum(shard.rows for shard in shards),
        "form": form,
        "image_size": image_size,
        "shards": [vars(shard) for shard in shards],
    }
    artefact.write_json(folder / DATASET, {**details, **facts})


def read_dataset(folder: Path, *, verify: bool = False, tars: bool = False) -> DatasetInfo:
    """`read_description`, with every shard there; `verify` also reads them: sha256 and, of Parquet, columns and rows.
    Shards that are tars are refused without `tars`: who reads rows reads Parquet. Raises ArtefactError.
    """
    info = read_description(folder)
    if info.shard_format == WEBDATASET and not tars:
        raise ArtefactError(
            f"{folder / DATASET}: shard_format = {WEBDATASET!r}: these tars are for other programs, and this job reads "
            f"Parquet shards: make them by `jobs.shard_images`, --source {folder} and --output-form parquet"
        )
    for shard in info.shards:
        path = folder / shard.file
        if not path.is_file():
            raise ArtefactError(
                f"{path}: listed in {DATASET} but missing; restore it or rebuild the folder with --fresh"
            )
        if verify:
            _check_shard(path, shard, info)
    return info


def read_description(folder: Path) -> DatasetInfo:
    """Read and check dataset.json; raises ArtefactError that names the file or field, the rule and the remedy."""
    path = folder / DATASET
    values = artefact.read_json(path)
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: must hold a JSON object; rebuild the folder with --fresh")
    kind = field_of(path, values, "kind", str)
    if kind not in ("shards", "codes"):
        raise ArtefactError(
            f"{path}: kind = {kind!r}: must be 'shards' or 'codes'; correct the path"
        )
    info = DatasetInfo(
        kind=kind,
        classes=tuple(field_of(path, values, "classes", list)),
        num_images=field_of(path, values, "num_images", int),
        image_size=field_of(path, values, "image_size", int),
        shards=tuple(_shard(path, item) for item in field_of(path, values, "shards", list)),
        **(image_fields if kind == "shards" else code_fields)(path, values),
    )
    _check_counts(path, info)
    return info


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _shard(path: Path, item: Any) -> ShardInfo:
    if not isinstance(item, dict):
        raise ArtefactError(
            f"{path}: shards holds {item!r}, which is no object; rebuild the folder"
        )
    kinds = {"file": str, "rows": int, "sha256": str}
    shard = ShardInfo(**{name: field_of(path, item, name, kind) for name, kind in kinds.items()})
    if Path(shard.file).name != shard.file:
        raise ArtefactError(
            f"{path}: shard file {shard.file!r}: must be a plain name inside the folder"
        )
    return shard


def _check_counts(path: Path, info: DatasetInfo) -> None:
    if not info.classes or len(set(info.classes)) != len(info.classes):
        raise ArtefactError(f"{path}: classes must be distinct names, at least one; rebuild it")
    rows = sum(shard.rows for shard in info.shards)
    if rows == 0 or rows != info.num_images * info.num_views:
        raise ArtefactError(
            f"{path}: num_images = {info.num_images} with {info.num_views} rows per image, but the "
            f"shards hold {rows} rows; rebuild the folder with --fresh"
        )


def _check_shard(path: Path, shard: ShardInfo, info: DatasetInfo) -> None:
    if artefact.sha256_of(path) != shard.sha256:
        raise ArtefactError(
            f"{path}: differs from its sha256 in {DATASET}; restore it or rebuild with --fresh"
        )
    if info.shard_format == PARQUET:
        check_contents(path, shard, info)


def check_contents(path: Path, shard: ShardInfo, info: DatasetInfo) -> None:
    """Check a shard's columns and number of rows, which its end tells; raises ArtefactError."""
    with pyarrow.parquet.ParquetFile(at_hand(path)) as file:
        if info.kind == "shards":
            check_columns(path, file.schema_arrow)
        else:
            check_code_columns(path, file.schema_arrow, info.code_columns)
        if file.metadata.num_rows != shard.rows:
            raise ArtefactError(
                f"{path}: holds {file.metadata.num_rows} rows, but {DATASET} says {shard.rows}; "
                "rebuild the folder with --fresh"
            )


def check_columns(path: Path, schema: pyarrow.Schema) -> None:
    """Raise ArtefactError for a shard of other columns, or of other types."""
    for wanted in SCHEMA:
        _check_column(path, schema, wanted.name, wanted.type)


def check_code_columns(path: Path, schema: pyarrow.Schema, columns: Iterable[CodeColumn]) -> None:
    """The same for a shard of codes, whose lists must be as long as the grids and of the type that holds all codes."""
    for column in columns:
        _check_column(path, schema, column.name, column.arrow_type)


def _check_column(path: Path, schema: pyarrow.Schema, name: str, kind: pyarrow.DataType) -> None:
    index = schema.get_field_index(name)
    if index < 0 or schema.field(index).type != kind:
        found = "missing" if index < 0 else f"of type {schema.field(index).type}"
        raise ArtefactError(f"{path}: column {name!r} is {found}; it must be of type {kind}")
