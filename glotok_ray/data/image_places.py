"""Where each image of a Parquet shard lies: written at the end of the file, so that who needs few rows reads no others.

Images are stored uncompressed, so an image is one stretch of the file. Parquet's own index leads to row groups, of
which a random twentieth of the rows needs nearly all. Read next: glotok_ray/data/shard_reader.py
"""

import base64
import io
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped

from glotok_ray.storage.places import is_remote
from glotok_ray.storage.stretches import read_stretch

FIELD = b"glotok_ray.image_places"
"""Of the file's key-value metadata."""
DAMAGED = "the bytes of its image fail their checksum"
_REQUESTS = 16
"""At once, of an object: each waits for the store."""
_PLACE = np.dtype([("offset", "<i8"), ("size", "<u4"), ("crc32", "<u4")])


class DamagedImageError(ValueError):
    """An image whose bytes are not those that were written; the text names the row."""


class PlacingStream(io.BufferedIOBase):
    """A stream for a writer of Parquet that finds the images of each row group in what was written."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._group = bytearray()
        self._group_start = 0
        self._places: list[tuple[int, int, int]] = []

    def write(self, data: Any, /) -> int:
        self._group += data
        return self._stream.write(data)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def end_group(self, images: Sequence[bytes]) -> None:
        """Note where the images lie among the bytes since the last group."""
        place = 0
        for image in images:
            place = self._group.find(image, place)
            assert place >= 0, "Parquet stored an image in another form than its bytes"
            self._places.append((self._group_start + place, len(image), zlib.crc32(image)))
            place += len(image)
        self._group_start += len(self._group)
        self._group.clear()

    def metadata(self) -> dict[bytes, bytes]:
        """For the file's end."""
        return {FIELD: base64.b64encode(np.array(self._places, _PLACE).tobytes())}


def places_of(
    metadata: Mapping[bytes, bytes] | None, num_rows: int
) -> Shaped[np.ndarray, " rows"] | None:
    """The places of all images of a file with this key-value metadata; None where it says none."""
    encoded = (metadata or {}).get(FIELD)
    if encoded is None:
        return None
    found = np.frombuffer(base64.b64decode(encoded), _PLACE)
    return found if len(found) == num_rows else None


def read_images(
    path: Path, places: Shaped[np.ndarray, " rows"], rows: Integer[np.ndarray, " n"]
) -> list[bytes]:
    """The encoded images of these rows; raises DamagedImageError and OSError."""
    images = []
    for row, image in zip(rows.tolist(), read_whole_images(path, places, rows), strict=True):
        if image is None:
            raise DamagedImageError(f"row {row}: {DAMAGED}")
        images.append(image)
    return images


def read_whole_images(
    path: Path, places: Shaped[np.ndarray, " rows"], rows: Integer[np.ndarray, " n"]
) -> list[bytes | None]:
    """The same, with None for an image that is damaged; raises OSError. Of an object each is a request."""
    if is_remote(path):
        with ThreadPoolExecutor(_REQUESTS) as threads:
            return list(
                threads.map(lambda row: _requested(path, places[row].item()), rows.tolist())
            )
    with path.open("rb", buffering=0) as stream:
        return [_checked(stream.fileno(), places[row].item()) for row in rows.tolist()]


def _checked(descriptor: int, place: tuple[int, int, int]) -> bytes | None:
    offset, size, crc32 = place
    return _whole(os.pread(descriptor, size, offset), crc32)


def _requested(path: Path, place: tuple[int, int, int]) -> bytes | None:
    offset, size, crc32 = place
    return _whole(read_stretch(path, offset, size), crc32)


def _whole(image: bytes, crc32: int) -> bytes | None:
    return image if zlib.crc32(image) == crc32 else None
