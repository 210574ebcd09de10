"""What was measured, on disk: one Parquet part per unit of work, and a receipt beside it that says the part is whole.

A part holds one row per image and one row group per block. Its name says which images, its identity what they were and
by which settings they were measured; a part that is damaged or of another identity is measured again.
Read next: glotok_ray/evaluation/streams.py
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Shaped, UInt8

from glotok_ray.evaluation.array_names import IMAGE_IDS
from glotok_ray.evaluation.plan import Block
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.digests import read_files
from glotok_ray.storage.node_cache import at_hand

logger = logging.getLogger(__name__)

PARTS_FOLDER = "parts"
_LAYOUT = b"glotok_ray.layout"


class MeasuredBlock(NamedTuple):
    """What one block contributes; `arrays` hold a row per image, `pictures` the first few images, or none."""

    kind: str
    arrays: dict[str, Shaped[np.ndarray, "b ..."]]
    """Features, LABELS, the arrays of GeneratorLoss, "psnr", "ssim", codes under their codebook's name, the PSNR of
    each codebook alone (`retention_psnr`), and the parts of squared errors (`error_parts`), as far as the kind has
    them.
    """
    pictures: dict[str, UInt8[np.ndarray, "kept h w 3"]]
    """ "inputs", "reconstructions", "images", and those of a codebook alone (`retention_pictures`)."""


class PlannedPart(NamedTuple):
    """A part that an evaluation needs, whether it is there or not."""

    kind: str
    start: int
    stop: int
    """Its images within the kind, without the last one."""
    identity: str
    """Digest of the evaluation's settings and of the unit's blocks."""

    @property
    def name(self) -> str:
        """The file's name; two actors that measure one unit write the same file."""
        return f"{self.kind}-{self.start:08d}-{self.stop:08d}.parquet"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is known of a whole part."""

    identity: str
    images: int
    bytes: int
    sha256: str


def planned_part(unit: Sequence[Block], fingerprint: str) -> PlannedPart:
    """The part of a unit, whose blocks hold adjacent images of one kind; `fingerprint` is that of the settings."""
    digest = hashlib.sha256(fingerprint.encode())
    for block in unit:
        place = [block.kind, block.start, block.stop, block.first_image, block.file]
        digest.update(json.dumps(place).encode())
        digest.update(b"" if block.rows is None else block.rows.tobytes())
    stop = unit[-1].first_image + unit[-1].stop - unit[-1].start
    return PlannedPart(unit[0].kind, unit[0].first_image, stop, digest.hexdigest())


# ---------------------------------------------------------------------------------------- writing


def write_part(folder: Path, part: PlannedPart, blocks: Sequence[MeasuredBlock]) -> Receipt:
    """Write a unit's blocks; readers see no part or a whole one. The folder must be there: an actor that outlived its
    job must not make it again. Raises ValueError for blocks that hold other images than the part.
    """
    path, start = folder / part.name, part.start
    tables = []
    for block in blocks:
        rows = len(next(iter(block.arrays.values())))
        tables.append(_table(block, np.arange(start, start + rows)))
        start += rows
    if start != part.stop:
        raise ValueError(
            f"{part.name}: {start - part.start} images were measured, and {part.stop - part.start} were planned"
        )
    # Features look like noise: dictionaries do not make them smaller. Compression halves those behind a ReLU (20 to
    # 11 kB per image of Inception's), at a quarter of the speed; the disk has room for parts until the end of the job.
    with (
        artefact.hashed_writer(path) as stream,
        pyarrow.parquet.ParquetWriter(
            stream,
            tables[0].schema,
            compression="NONE",
            use_dictionary=False,
            write_statistics=False,
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    receipt = Receipt(
        identity=part.identity,
        images=part.stop - part.start,
        bytes=stream.bytes,
        sha256=stream.sha256,
    )
    artefact.write_json(_receipt_path(path), asdict(receipt))
    return receipt


def _table(block: MeasuredBlock, ids: Shaped[np.ndarray, " b"]) -> pyarrow.Table:
    columns = {IMAGE_IDS: pyarrow.array(ids)}
    layout: dict[str, Any] = {}
    for name, values in block.arrays.items():
        columns[name] = pyarrow.array(values) if values.ndim == 1 else _rows_as_bytes(values)
        layout[name] = {"dtype": values.dtype.str, "shape": values.shape[1:]}
    for name, pictures in block.pictures.items():
        kept = [picture.tobytes() for picture in pictures]
        columns[name] = pyarrow.array([*kept, *[None] * (len(ids) - len(kept))], pyarrow.binary())
        layout[name] = {"dtype": pictures.dtype.str, "shape": pictures.shape[1:]}
    table = pyarrow.table(columns)
    return table.replace_schema_metadata({_LAYOUT: json.dumps(layout).encode()})


def _rows_as_bytes(values: Shaped[np.ndarray, "b ..."]) -> pyarrow.Array:
    """Each row as so many bytes. Lists of floats, Parquet's own way, are written at a seventh of the speed and read at
    less than half of it (measured: 126 and 384 MB/s, against 889 and 926; files of npy have 1762 and 2935, and are as
    many per part as there are arrays).
    """
    width = values.dtype.itemsize * int(np.prod(values.shape[1:]))
    data = pyarrow.py_buffer(np.ascontiguousarray(values))
    return pyarrow.Array.from_buffers(pyarrow.binary(width), len(values), [None, data])


# ---------------------------------------------------------------------------------------- what is there already


def finished_parts(folder: Path, parts: Sequence[PlannedPart]) -> set[str]:
    """Names of the parts that are there and whole, every byte of them read.

    Those that are damaged or of another identity are told in one line, and count as missing.
    """
    receipts = {part.name: _read_receipt(folder / part.name) for part in parts}
    there = [part for part in parts if (folder / part.name).is_file() and receipts[part.name]]
    own = {
        part.name: receipt
        for part in there
        if (receipt := receipts[part.name]) and receipt.identity == part.identity
    }
    read = read_files([folder / name for name in own])
    whole = {found.path.name for found in read if found.sha256 == own[found.path.name].sha256}
    refused = [part.name for part in there if part.name not in whole]
    if refused:
        logger.warning(
            "%s: %d of %d parts are damaged or of other blocks, %s first; they are measured again",
            folder,
            len(refused),
            len(there),
            refused[0],
        )
    return whole


def _receipt_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_receipt(path: Path) -> Receipt | None:
    """None where there is none that can be read: then the part beside it is not known to be whole."""
    try:
        return Receipt(**artefact.read_json(_receipt_path(path)))
    except (ArtefactError, TypeError):
        return None


# ---------------------------------------------------------------------------------------- reading


def stored_layout(path: Path) -> Mapping[str, Any]:
    """Type and shape of a row of each array of a part, by name; raises ArtefactError for another file."""
    metadata = pyarrow.parquet.read_schema(at_hand(path)).metadata or {}
    if _LAYOUT not in metadata:
        raise ArtefactError(f"{path}: is no part of an evaluation; start again with --fresh")
    return json.loads(metadata[_LAYOUT])


def read_rows(path: Path, name: str) -> Iterator[Shaped[np.ndarray, "b ..."]]:
    """An array of a part, block by block; of pictures, the kept ones."""
    layout = {**stored_layout(path), IMAGE_IDS: {"dtype": "<i8", "shape": []}}[name]
    with pyarrow.parquet.ParquetFile(at_hand(path)) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=[name])[name].combine_chunks()
            yield _as_array(column, np.dtype(layout["dtype"]), tuple(layout["shape"]))


def _as_array(column: pyarrow.Array, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if pyarrow.types.is_binary(column.type):
        kept = [np.frombuffer(value, dtype) for value in column.drop_null().to_pylist()]
        return np.array(kept, dtype).reshape(-1, *shape)
    if not shape:
        return column.to_numpy(zero_copy_only=False)
    data = np.frombuffer(column.buffers()[1], dtype)
    first = column.offset * int(np.prod(shape))
    return data[first:].reshape(-1, *shape)[: len(column)]
