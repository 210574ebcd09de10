"""Some rows of one Parquet file: what a unit of the training plan reads at once.

Read next: glotok_ray/data/training_rows.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Int
from numpy import ndarray

from glotok_ray.data.image_places import places_of, read_whole_images
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.retries import patiently

Found = TypeVar("Found")


def read_part(
    path: Path, num_rows: int, rows: Int[ndarray, " n"], columns: list[str], *, minutes: float
) -> pyarrow.Table:
    """Some rows of a Parquet file of `num_rows`, in the order of `rows`; only their row groups are read.

    Raises ArtefactError for a file that is damaged or has another number of rows, and StorageError for one that cannot
    be reached for `minutes`.
    """
    return patiently(
        lambda: _from_part(path, num_rows, lambda _, file: rows_of_groups(file, rows, columns)),
        path,
        minutes=minutes,
    )


def read_images_of_part(
    path: Path, num_rows: int, rows: Int[ndarray, " n"], *, minutes: float
) -> tuple[list[str], list[bytes | None]]:
    """Keys and encoded images of some rows, in the order of `rows`; None for an image that is damaged.

    Images are read from where the file says that they lie; in a file that does not, as `read_part` reads. Raises as
    that.
    """

    def read(
        local: Path, file: pyarrow.parquet.ParquetFile
    ) -> tuple[list[str], list[bytes | None]]:
        places = places_of(file.metadata.metadata, num_rows)
        if places is None:
            table = rows_of_groups(file, rows, ["key", "image"])
            return table["key"].to_pylist(), table["image"].to_pylist()
        keys = rows_of_groups(file, rows, ["key"])["key"].to_pylist()
        return keys, read_whole_images(local, places, rows)

    return patiently(lambda: _from_part(path, num_rows, read), path, minutes=minutes)


def _from_part(
    path: Path, num_rows: int, read: Callable[[Path, pyarrow.parquet.ParquetFile], Found]
) -> Found:
    """What `read` reads of a file that has so many rows."""
    try:
        local = at_hand(path)
        with pyarrow.parquet.ParquetFile(local, page_checksum_verification=True) as file:
            found = file.metadata.num_rows
            if found != num_rows:
                raise ArtefactError(
                    f"{path}: holds {found} rows, and dataset.json says {num_rows}; restore it, or rebuild the folder "
                    "with --fresh"
                )
            return read(local, file)
    except (pyarrow.ArrowException, OSError) as error:
        # Only storage's own errors have a number; pyarrow's, of bytes that it cannot decode, have none.
        if getattr(error, "errno", None) is not None:
            raise
        reason = " ".join(str(error).split())
        raise ArtefactError(
            f"{path}: is damaged ({reason}); restore it, or rebuild the folder with --fresh"
        ) from None


def rows_of_groups(
    file: pyarrow.parquet.ParquetFile, rows: Int[ndarray, " n"], columns: Sequence[str]
) -> pyarrow.Table:
    """Some rows, in the order of `rows`, from the row groups that hold them."""
    groups = range(file.num_row_groups)
    sizes = np.array([file.metadata.row_group(number).num_rows for number in groups])
    ends = np.cumsum(sizes)
    group = np.searchsorted(ends, rows, side="right")
    wanted = np.unique(group)
    table = file.read_row_groups(wanted.tolist(), columns=list(columns))
    # From rows of the file to rows of what was read.
    start = np.zeros(len(sizes), dtype=np.int64)
    start[wanted] = np.cumsum(sizes[wanted]) - sizes[wanted]
    places = rows - (ends - sizes)[group] + start[group]
    if (np.diff(places) == 1).all():  # without a copy
        return table.slice(int(places[0]), len(places))
    return table.take(places)
