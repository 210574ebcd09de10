"""Files of token codes: one per image shard, with the uses of every code and a dataset.json beside them.

A row is key, label, view and one list of codes per codebook, or per grid of another system's tokenizer. The rows of an
image are adjacent, in the order of its views.
Read next: glotok_ray/data/training_rows.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Int
from numpy import ndarray

from glotok_ray.data.code_layout import CodeColumn, CodeLayout
from glotok_ray.data.records import DATASET, ShardInfo, check_code_columns
from glotok_ray.data.shard_plan import CHUNK_ROWS
from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import writing

COUNTS_FILE = "counts.npz"
"""Uses of each code by column, all views counted: for the latent scale."""


def stored_codes(
    codes: Sequence[Int[ndarray, "rows ..."]], layout: CodeLayout
) -> dict[str, Int[ndarray, "rows positions"]]:
    """Codes, one array per column, as files hold them; raises ValueError that names the column where one is not in it:
    a conversion alone would make another code of it.
    """
    return {
        column.name: _stored(values, column)
        for column, values in zip(layout.columns, codes, strict=True)
    }


def _stored(codes: Int[ndarray, "rows ..."], column: CodeColumn) -> Int[ndarray, "rows positions"]:
    if codes.shape[1:] not in (column.shape, (column.num_positions,)):
        raise ValueError(
            f"codes of {column.name!r}: of shape {codes.shape[1:]}; must be {column.shape}, the tokenizer's grid"
        )
    _check_codes(codes, column.name, column.num_codes)
    return codes.reshape(len(codes), -1).astype(column.dtype)


def _check_codes(codes: Int[ndarray, "..."], name: str, size: int) -> None:
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes of the codebook {name!r}: {codes.dtype}; must be whole numbers")
    if codes.size and codes.min() < 0:
        raise ValueError(
            f"codebook {name!r}: {np.count_nonzero(codes < 0)} of {codes.size} positions have no code, since the "
            "tokenizer's encoder gave numbers that are not finite; look for a diverged tokenizer, or encode in fp32"
        )
    if codes.size and codes.max() >= size:
        raise ValueError(
            f"codebook {name!r}: holds code {codes.max()}; must be in [0, {size}); these codes are another tokenizer's"
        )


class CodeShard(NamedTuple):
    """One written file of codes."""

    info: ShardInfo
    counts: dict[str, Int[ndarray, " codes"]]
    """How often each code of a column occurs."""
    bytes: int
    """Size of the file."""


def write_code_shard(
    path: Path,
    keys: Sequence[str] | ndarray,
    labels: Int[ndarray, " images"],
    codes: Mapping[str, Int[ndarray, "rows positions"]],
    layout: CodeLayout,
) -> CodeShard:
    """Write the codes of some images, as `stored_codes` gives them; rows are images times views. Readers never see half
    a file.
    """
    rows = len(codes[layout.names[0]])
    views = rows // len(keys)
    columns = {
        "key": np.repeat(np.asarray(keys), views),
        "label": np.repeat(labels.astype(np.int32), views),
        "view": np.tile(np.arange(views, dtype=np.int8), len(keys)),
        **{name: _fixed_size_lists(codes[name]) for name in layout.names},
    }
    with artefact.hashed_writer(path) as stream:
        pyarrow.parquet.write_table(
            pyarrow.table(columns), stream, row_group_size=CHUNK_ROWS * views
        )
    counts = {
        name: _counted(codes[name].reshape(-1), name, size)
        for name, size in layout.code_counts.items()
    }
    return CodeShard(ShardInfo(path.name, rows, stream.sha256), counts, stream.bytes)


def read_code_shard(path: Path, layout: CodeLayout) -> CodeShard:
    """What `write_code_shard` returned when it wrote the file at `path`; raises ValueError for codes in no codebook and
    ArtefactError for other columns.
    """
    check_code_columns(path, pyarrow.parquet.read_schema(at_hand(path)), layout.columns)
    table = pyarrow.parquet.read_table(at_hand(path), columns=list(layout.names))
    counts = {
        name: _counted(table[name].combine_chunks().flatten().to_numpy(), name, size)
        for name, size in layout.code_counts.items()
    }
    info = ShardInfo(path.name, table.num_rows, artefact.sha256_of(path))
    return CodeShard(info, counts, path.stat().st_size)


def write_code_dataset(
    folder: Path,
    shards: Sequence[CodeShard],
    layout: CodeLayout,
    *,
    num_views: int,
    classes: Sequence[str],
    tokenizer_sha256: str,
    details: Mapping[str, Any],
) -> dict[str, Int[ndarray, " codes"]]:
    """Write counts.npz and dataset.json and return the counts; `details` are facts that nothing computes with."""
    counts = {
        name: np.sum([shard.counts[name] for shard in shards], axis=0) for name in layout.names
    }
    # The names are keys of our own config, never savez's `file`.
    with writing(folder / COUNTS_FILE) as local:
        np.savez(local, **counts)  # type: ignore[arg-type]
    facts = {
        "kind": "codes",
        "num_images": sum(shard.info.rows for shard in shards) // num_views,
        "num_views": num_views,
        "image_size": layout.image_size,
        **_grid_facts(layout),
        "num_classes": len(classes),
        "classes": list(classes),
        "codebooks": layout.code_counts,
        "tokenizer_sha256": tokenizer_sha256,
        "shards": [vars(shard.info) for shard in shards],
    }
    artefact.write_json(folder / DATASET, {**details, **facts})
    return counts


def _grid_facts(layout: CodeLayout) -> dict[str, Any]:
    """Ours have one side for all grids; of other systems each grid's own form stands there."""
    if not layout.system:
        return {"grid_size": layout.grid_size}
    return {
        "system": layout.system,
        # A list, since fields of JSON are sorted by their names.
        "grids": [{"name": name, "shape": list(shape)} for name, shape in layout.grids.items()],
        "bits": layout.bits,
    }


def _counted(codes: Int[ndarray, " n"], name: str, size: int) -> Int[ndarray, " codes"]:
    _check_codes(codes, name, size)
    return np.bincount(codes, minlength=size)


def _fixed_size_lists(codes: ndarray) -> pyarrow.FixedSizeListArray:
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(codes.reshape(-1)), codes.shape[1])
