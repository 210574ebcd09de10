"""Files of token codes: one per image shard, with the uses of every code and a dataset.json beside them.

A row is key, label, view and one list of codes per codebook. The rows of an image are adjacent, in the order of its
views.
Read next: glotok_ray/data/training_rows.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Int, UInt16
from numpy import ndarray

from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.data.records import DATASET, ShardInfo
from glotok_ray.data.shard_plan import CHUNK_ROWS
from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import writing

COUNTS_FILE = "counts.npz"
"""Uses of each code by codebook, all views counted: for the latent scale."""


def stored_codes(
    codes: Int[ndarray, "codebooks rows positions"], model: TokenizerConfig
) -> UInt16[ndarray, "codebooks rows positions"]:
    """Codes as files hold them; raises ValueError that names the codebook where one is not in it: a conversion alone
    would make another code of it.
    """
    for codebook, values in zip(model.codebooks, codes, strict=True):
        _check_codes(values, codebook.name, codebook.size)
    return codes.astype(np.uint16)


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
    """How often each code of a codebook occurs."""
    bytes: int
    """Size of the file."""


def write_code_shard(
    path: Path,
    keys: Sequence[str] | ndarray,
    labels: Int[ndarray, " images"],
    codes: Mapping[str, UInt16[ndarray, "rows positions"]],
    model: TokenizerConfig,
) -> CodeShard:
    """Write the codes of some images; rows are images times views. Readers never see half a file."""
    rows = len(codes[model.names[0]])
    views = rows // len(keys)
    columns = {
        "key": np.repeat(np.asarray(keys), views),
        "label": np.repeat(labels.astype(np.int32), views),
        "view": np.tile(np.arange(views, dtype=np.int8), len(keys)),
        **{name: _fixed_size_lists(values) for name, values in codes.items()},
    }
    with artefact.hashed_writer(path) as stream:
        pyarrow.parquet.write_table(
            pyarrow.table(columns), stream, row_group_size=CHUNK_ROWS * views
        )
    counts = {
        name: _counted(codes[name].reshape(-1), name, size)
        for name, size in model.code_counts.items()
    }
    return CodeShard(ShardInfo(path.name, rows, stream.sha256), counts, stream.bytes)


def read_code_shard(path: Path, model: TokenizerConfig) -> CodeShard:
    """What `write_code_shard` returned when it wrote the file at `path`; raises ValueError for codes in no codebook."""
    table = pyarrow.parquet.read_table(at_hand(path), columns=list(model.names))
    counts = {
        name: _counted(table[name].combine_chunks().flatten().to_numpy(), name, size)
        for name, size in model.code_counts.items()
    }
    info = ShardInfo(path.name, table.num_rows, artefact.sha256_of(path))
    return CodeShard(info, counts, path.stat().st_size)


def write_code_dataset(
    folder: Path,
    shards: Sequence[CodeShard],
    model: TokenizerConfig,
    *,
    num_views: int,
    classes: Sequence[str],
    tokenizer_sha256: str,
    details: Mapping[str, Any],
) -> dict[str, Int[ndarray, " codes"]]:
    """Write counts.npz and dataset.json and return the counts; `details` are facts that nothing computes with."""
    counts = {
        name: np.sum([shard.counts[name] for shard in shards], axis=0) for name in model.names
    }
    # The names are keys of our own config, never savez's `file`.
    with writing(folder / COUNTS_FILE) as local:
        np.savez(local, **counts)  # type: ignore[arg-type]
    facts = {
        "kind": "codes",
        "num_images": sum(shard.info.rows for shard in shards) // num_views,
        "num_views": num_views,
        "image_size": model.autoencoder.image_size,
        "grid_size": model.autoencoder.grid_size,
        "num_classes": len(classes),
        "classes": list(classes),
        "codebooks": model.code_counts,
        "tokenizer_sha256": tokenizer_sha256,
        "shards": [vars(shard.info) for shard in shards],
    }
    artefact.write_json(folder / DATASET, {**details, **facts})
    return counts


def _counted(codes: UInt16[ndarray, " n"], name: str, size: int) -> Int[ndarray, " codes"]:
    _check_codes(codes, name, size)
    return np.bincount(codes, minlength=size)


def _fixed_size_lists(codes: ndarray) -> pyarrow.FixedSizeListArray:
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(codes.reshape(-1)), codes.shape[1])
