"""Shards of images as arrays: rows are read, decoded and cut by threads that work ahead of a device; no torch.

Encoding, teacher features and evaluations read through here, each with its own crops. Read next:
glotok_ray/data/transforms.py
"""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Integer, UInt8

from glotok_ray.data.image_places import DamagedImageError, places_of, read_images
from glotok_ray.data.records import DATASET, ShardInfo, decode_image
from glotok_ray.data.shard_parts import rows_of_groups
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand, held
from glotok_ray.storage.places import is_remote
from glotok_ray.storage.retries import patiently
from glotok_ray.storage.stretches import by_name_or_stream

_COLUMNS = ("key", "image", "label")
# Of an object, images of up to one row in so many are requested one by one; of more it is fetched whole.
_ROWS_PER_REQUESTED = 8

Result = TypeVar("Result")
ViewsOf = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "views height width 3"]]


class DecodedRow(NamedTuple):
    """The views of one row's image; the error in their place where it cannot be decoded."""

    key: str
    views: UInt8[np.ndarray, "views height width 3"] | None
    error: ArtefactError | None = None


def read_shard(folder: Path, shard: ShardInfo, *, minutes: float) -> pyarrow.Table:
    """All rows of a shard, its bytes checked first; raises ArtefactError when they have changed, and StorageError when
    the file cannot be reached for `minutes`.
    """
    path = folder / shard.file
    encoded = patiently(lambda: at_hand(path).read_bytes(), path, minutes=minutes)
    if hashlib.sha256(encoded).hexdigest() != shard.sha256:
        raise ArtefactError(
            f"{path}: differs from its sha256 in {DATASET}; restore it, or shard the images again with --fresh"
        )
    return pyarrow.parquet.read_table(pyarrow.BufferReader(encoded))


def read_shard_rows(
    path: Path,
    start: int,
    stop: int,
    *,
    minutes: float,
    columns: Sequence[str] = ("key", "image"),
) -> pyarrow.Table:
    """Rows start .. stop, from the row groups that hold them; raises ArtefactError for one that is damaged, and
    StorageError when the file cannot be reached for `minutes`.
    """
    rows = np.arange(start, stop)
    return _from_storage(lambda: _read_groups(path, rows, columns), path, minutes)


def read_chosen_rows(
    path: Path, rows: Integer[np.ndarray, " n"], *, minutes: float
) -> pyarrow.Table:
    """Keys, encoded images and labels of these rows, which must ascend: their images alone where the file says where
    they lie, else the row groups that hold them. Raises as `read_shard_rows`.
    """

    def read() -> pyarrow.Table:
        found = _read_placed(path, rows)
        return _read_groups(path, rows, _COLUMNS) if found is None else found

    return _from_storage(read, path, minutes)


def read_drawn_rows(
    folder: Path, shard: ShardInfo, rows: Sequence[int], *, minutes: float
) -> pyarrow.Table:
    """`read_chosen_rows`, with all bytes checked: against checksums of their own, or, of a shard of an older version,
    as `read_shard` does.
    """
    path, chosen = folder / shard.file, np.asarray(rows)
    try:
        found = _from_storage(lambda: _read_placed(path, chosen), path, minutes)
    except ArtefactError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ArtefactError(f"{path}: differs from its sha256 in {DATASET}: {reason}") from error
    return read_shard(folder, shard, minutes=minutes).take(chosen) if found is None else found


def _from_storage(read: Callable[[], Result], path: Path, minutes: float) -> Result:
    """What `read` reads, with patience for storage and none for damage, which stays."""

    def attempt() -> Result:
        try:
            return read()
        except (pyarrow.ArrowException, DamagedImageError) as error:
            raise _damaged(path, error) from error
        except OSError as error:
            # pyarrow's own, of bytes that it cannot decode, have no number.
            if error.errno is not None:
                raise
            raise _damaged(path, error) from error

    return patiently(attempt, path, minutes=minutes)


def _damaged(path: Path, error: Exception) -> ArtefactError:
    reason = " ".join(str(error).split())
    return ArtefactError(
        f"{path}: is damaged ({reason}); python -m jobs.verify {path.parent} names the rows; restore it, or rebuild "
        "the folder with --fresh"
    )


def _read_placed(path: Path, rows: Integer[np.ndarray, " n"]) -> pyarrow.Table | None:
    """The rows by their images' places; None where the file does not say them. Few rows of an object are requested,
    and the shard stays where it is.
    """
    local = held(path)
    if local is None:
        with _opened(path) as file:
            places = places_of(file.metadata.metadata, file.metadata.num_rows)
            if places is None:
                return None
            if len(rows) * _ROWS_PER_REQUESTED <= len(places):
                return _placed(file, path, places, rows)
        local = at_hand(path)
    with _opened(local) as file:
        places = places_of(file.metadata.metadata, file.metadata.num_rows)
        return None if places is None else _placed(file, local, places, rows)


def _placed(
    file: pyarrow.parquet.ParquetFile,
    path: Path,
    places: np.ndarray,
    rows: Integer[np.ndarray, " n"],
) -> pyarrow.Table:
    table = rows_of_groups(file, rows, [name for name in _COLUMNS if name != "image"])
    images = pyarrow.array(read_images(path, places, rows), pyarrow.binary())
    return table.add_column(1, "image", images)


def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
    """The file; of an object its end is requested, and then what is read."""
    return pyarrow.parquet.ParquetFile(
        by_name_or_stream(path), pre_buffer=is_remote(path), page_checksum_verification=True
    )


def _read_groups(
    path: Path, rows: Integer[np.ndarray, " n"], columns: Sequence[str]
) -> pyarrow.Table:
    with _opened(at_hand(path)) as file:
        return rows_of_groups(file, rows, columns)


def read_labels(folder: Path, shard: ShardInfo, *, minutes: float) -> np.ndarray:
    """The labels of all rows of a shard, in order; nothing else is read of an object. Raises as `read_shard_rows`."""
    path = folder / shard.file

    def read() -> np.ndarray:
        with _opened(held(path) or path) as file:
            return file.read(columns=["label"])["label"].to_numpy()

    return _from_storage(read, path, minutes)


def decoded_rows(
    rows: pyarrow.Table, views_of: ViewsOf, *, num_threads: int, ahead: int
) -> Iterator[DecodedRow]:
    """Every row in order, decoded and cut by `views_of`; threads work ahead of the caller by about `ahead` rows, so
    memory does not grow with the rows.
    """

    def decode(position: int) -> DecodedRow:
        key = keys[position]
        try:
            return DecodedRow(key, views_of(decode_image(encoded[position].as_py(), key)))
        except ArtefactError as error:
            return DecodedRow(key, None, error)

    keys, encoded = rows["key"].to_pylist(), rows["image"]
    waiting = collections.deque()
    with ThreadPoolExecutor(num_threads) as threads:
        for position in range(rows.num_rows):
            waiting.append(threads.submit(decode, position))
            if len(waiting) > ahead + num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def view_batches(
    rows: pyarrow.Table,
    views_of: ViewsOf,
    num_views: int,
    *,
    batch_size: int,
    num_threads: int,
) -> Iterator[UInt8[np.ndarray, "b height width 3"]]:
    """Batches of at most `batch_size` views; the views of an image are adjacent, and threads work about one batch
    ahead. Raises ArtefactError that names the row for an image that cannot be decoded.
    """
    decoded = decoded_rows(
        rows, views_of, num_threads=num_threads, ahead=-(-batch_size // num_views)
    )
    views = itertools.chain.from_iterable(_views_of_all(decoded))
    while batch := list(itertools.islice(views, batch_size)):
        yield np.stack(batch)


def _views_of_all(decoded: Iterator[DecodedRow]) -> Iterator[UInt8[np.ndarray, "views h w 3"]]:
    for row in decoded:
        if row.views is None:
            assert row.error is not None
            raise row.error
        yield row.views
