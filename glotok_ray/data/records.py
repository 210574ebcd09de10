"""Parquet shards of images, and dataset.json, which describes a folder of shards (images or codes).

A row is key (unique string), image (encoded PNG, JPEG or WebP bytes) and label (class index).
Read next: glotok_ray/data/training_rows.py
"""

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from glotok_ray.data.dataset_fields import code_fields, field_of, image_fields
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


@dataclass(frozen=True)
class ShardInfo:
    """A shard's file name inside its folder, its number of rows and the sha256 of its bytes."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says; the last four fields describe codes alone."""

    kind: str
    """ "shards" (images) or "codes"."""
    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    num_images: int
    """Images, views apart."""
    image_size: int
    """Pixels: the side of crops; the side that reduced images were stored for; 0 for originals; of codes, the side of
    the tokenizer's images.
    """
    shards: tuple[ShardInfo, ...]
    form: str = ""
    """Of images: "original" (whole images at their own size), "crop" (squares of side image_size, which are the data
    set itself) or "reduced" (whole images, short side brought into [image_size, 1.25 * image_size]). Codes have none.
    """
    num_unreadable: int = 0
    """Of images: files of both splits that could not be read, which dataset.json names."""
    num_turned: int = 0
    """Of images: those of this folder that were turned by their EXIF orientation."""
    num_changed: int = 0
    """Of images: those of this folder that are not stored as they were: laid on white, brought from 16 bits to 8, cut
    or halved; dataset.json names them.
    """
    num_views: int = 1
    """Adjacent rows per image."""
    views: str = ""
    """Of codes: what was encoded of an image, a value of `EncodeRun.views`; empty where that is not recorded."""
    grid_size: int = 0
    """Code positions along one side."""
    tokenizer_sha256: str = ""
    """Digest of the tokenizer that made the codes."""
    code_counts: dict[str, int] = field(default_factory=dict)
    """Number of codes in each codebook, by the name of its column, in the order of the latent's channels."""


def encode_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Lossless bytes of an RGB image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def decode_image(encoded: bytes, key: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a row's image to RGB; raises ArtefactError that names the row's key."""
    try:
        # Not in a `with`, which would hold the file's pixels beside their copy.
        image = Image.open(io.BytesIO(encoded))
        if image.mode != "RGB":
            image = image.convert("RGB")
        return np.array(image)
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
    }
    with (
        artefact.hashed_writer(path) as stream,
        pyarrow.parquet.ParquetWriter(stream, SCHEMA, **options) as writer,
    ):
        for group in _groups(rows):
            columns = dict(zip(Row._fields, zip(*group, strict=True), strict=True))
            writer.write_table(pyarrow.table(columns, schema=SCHEMA))
            count += len(group)
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
        _check_columns(path, file.schema_arrow)
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


def read_dataset(folder: Path, *, verify: bool = False) -> DatasetInfo:
    """Read and check dataset.json; `verify` also reads every shard: its sha256, columns and rows.

    Raises ArtefactError that names the file or field, the rule and the remedy.
    """
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
    for shard in info.shards:
        _check_shard(folder / shard.file, shard, kind, verify=verify)
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


def _check_shard(path: Path, shard: ShardInfo, kind: str, *, verify: bool) -> None:
    if not path.is_file():
        raise ArtefactError(
            f"{path}: listed in {DATASET} but missing; restore it or rebuild the folder with --fresh"
        )
    if not verify:
        return
    if artefact.sha256_of(path) != shard.sha256:
        raise ArtefactError(
            f"{path}: differs from its sha256 in {DATASET}; restore it or rebuild with --fresh"
        )
    check_contents(path, shard, kind)


def check_contents(path: Path, shard: ShardInfo, kind: str) -> None:
    """Check a shard's columns and number of rows, which its end tells; raises ArtefactError."""
    with pyarrow.parquet.ParquetFile(at_hand(path)) as file:
        if kind == "shards":
            _check_columns(path, file.schema_arrow)
        if file.metadata.num_rows != shard.rows:
            raise ArtefactError(
                f"{path}: holds {file.metadata.num_rows} rows, but {DATASET} says {shard.rows}; "
                "rebuild the folder with --fresh"
            )


def _check_columns(path: Path, schema: pyarrow.Schema) -> None:
    for wanted in SCHEMA:
        index = schema.get_field_index(wanted.name)
        if index < 0 or schema.field(index).type != wanted.type:
            found = "missing" if index < 0 else f"of type {schema.field(index).type}"
            raise ArtefactError(
                f"{path}: column {wanted.name!r} is {found}; it must be of type {wanted.type}"
            )
