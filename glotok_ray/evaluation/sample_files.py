"""The images of samples.npz in ADM's layout, of ours and of others: one array arr_0, read block by block, and labels.

Read next: glotok_ray/evaluation/reference.py
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from glotok_ray.storage.artefact import ArtefactError, replacing
from glotok_ray.storage.digests import Stamp
from glotok_ray.storage.node_cache import at_hand

IMAGES_ARRAY = "arr_0"
"""As numpy.savez calls its first array, and ADM's evaluator reads it."""
LABEL_ARRAYS = ("arr_1", "label")
"""Where labels may lie: the first is numpy.savez's second array, as ADM's sampling writes them."""
_BLOCK_BYTES = 16 << 20
_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)

Images = UInt8[np.ndarray, "b h w 3"]


class StoredImages(NamedTuple):
    """Layout of arr_0 in an npz."""

    offset: int
    """Of its first pixel: in the file, or, of a compressed array, in what is unpacked."""
    shape: tuple[int, ...]
    """(n, h, w, 3)."""
    compressed: bool

    @property
    def bytes_per_image(self) -> int:
        """One per number."""
        return int(np.prod(self.shape[1:]))


def stored_images(path: Path) -> StoredImages:
    """Where arr_0 lies in `path`; raises ArtefactError unless it is there, uint8 and NHWC."""
    with _array(path, IMAGES_ARRAY) as (entry, member):
        shape, fortran_order, dtype = _header(member)
        header_bytes = member.tell()
    _check_layout(path, shape, dtype, fortran_order=fortran_order)
    if entry.compress_type != zipfile.ZIP_STORED:
        return StoredImages(header_bytes, shape, compressed=True)
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        name_bytes, extra_bytes = np.frombuffer(stream.read(4), "<u2").tolist()
    offset = entry.header_offset + 30 + name_bytes + extra_bytes + header_bytes
    if offset + int(np.prod(shape)) > path.stat().st_size:
        raise ArtefactError(
            f"{path}: ends before the last image of {IMAGES_ARRAY} {shape}; write it again"
        )
    return StoredImages(offset, shape, compressed=False)


def read_images(path: Path, start: int, stop: int) -> Images:
    """Images start .. stop of an npz, without keeping the others.

    Of a compressed one all images before them are unpacked on the way: use `image_blocks` or `unpacked` to read many.
    """
    layout = stored_images(path)
    stop = min(stop, layout.shape[0])
    if layout.compressed:
        with _array(path, IMAGES_ARRAY) as (_, member):
            member.seek(layout.offset + start * layout.bytes_per_image)
            return _read(path, member, max(stop - start, 0), layout)
    stored = np.memmap(at_hand(path), np.uint8, "r", offset=layout.offset, shape=layout.shape)
    return np.array(stored[start:stop])


def image_blocks(path: Path, size: int) -> Iterator[Images]:
    """All images in order, in blocks of `size`, of which one is in memory; compressed ones are unpacked on the way."""
    layout = stored_images(path)
    for start, member in _positions(path, layout, size):
        stop = min(start + size, layout.shape[0])
        if member is None:
            yield read_images(path, start, stop)
        else:
            yield _read(path, member, stop - start, layout)


def stored_labels(path: Path) -> Int64[np.ndarray, " n"] | None:
    """The class number of each image, None where the file has no labels; raises ArtefactError for labels that are not
    one whole number per image.
    """
    count = stored_images(path).shape[0]
    with zipfile.ZipFile(at_hand(path)) as archive:
        there = [name for name in LABEL_ARRAYS if f"{name}.npy" in archive.namelist()]
    if not there:
        return None
    name = there[0]
    with _array(path, name) as (_, member):
        header = _header(member)
        # Before any number is read: an array of objects is never unpickled, and another length never loaded.
        if not np.issubdtype(header.dtype, np.integer) or header.shape != (count,):
            raise ArtefactError(
                f"{path}: {name} is {header.dtype} {header.shape}; labels must be whole numbers ({count},), one per "
                f"image of {IMAGES_ARRAY}: write them so, or leave them out"
            )
        data = member.read(count * header.dtype.itemsize)
    if len(data) != count * header.dtype.itemsize:
        raise ArtefactError(f"{path}: ends before the last label of {name}; write it again")
    return np.frombuffer(data, header.dtype).astype(np.int64)


def unpacked(path: Path, folder: Path) -> Path:
    """An npz whose images can be read in any order: `path` itself, or a copy in `folder` where it is compressed.

    The copy is written once in blocks, so memory stays bounded; whoever calls removes it.
    """
    layout = stored_images(path)
    if not layout.compressed:
        return path
    # Another file of the same name is another copy.
    copy = folder / f"{path.stem}.{Stamp.of(path).mtime_ns}.unpacked.npz"
    if copy.is_file():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    header = {"descr": "|u1", "fortran_order": False, "shape": layout.shape}
    size = max(1, _BLOCK_BYTES // layout.bytes_per_image)
    with (
        replacing(copy) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        archive.open(f"{IMAGES_ARRAY}.npy", "w", force_zip64=True) as stream,
    ):
        np.lib.format.write_array_header_2_0(stream, header)  # type: ignore[arg-type]
        for block in image_blocks(path, size):
            stream.write(block.tobytes())
    return copy


def _positions(
    path: Path, layout: StoredImages, size: int
) -> Iterator[tuple[int, IO[bytes] | None]]:
    """The first image of each block, and the stream that stands there, where images are compressed."""
    starts = range(0, layout.shape[0], size)
    if not layout.compressed:
        yield from ((start, None) for start in starts)
        return
    with _array(path, IMAGES_ARRAY) as (_, member):
        member.seek(layout.offset)
        yield from ((start, member) for start in starts)


def _read(path: Path, member: IO[bytes], count: int, layout: StoredImages) -> Images:
    wanted = count * layout.bytes_per_image
    data = member.read(wanted)
    if len(data) != wanted:
        raise ArtefactError(
            f"{path}: ends before the last image of {IMAGES_ARRAY} {layout.shape}; write it again"
        )
    return np.frombuffer(data, np.uint8).reshape(count, *layout.shape[1:]).copy()


@contextmanager
def _array(path: Path, wanted: str) -> Iterator[tuple[zipfile.ZipInfo, IO[bytes]]]:
    """The entry of an array and a stream of its bytes; raises ArtefactError for a file that has none or is damaged."""
    try:
        with zipfile.ZipFile(at_hand(path)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if wanted not in names:
                raise ArtefactError(
                    f"{path}: holds {', '.join(names) or 'nothing'}, not {wanted}, where images are looked for; "
                    "write them with numpy.savez(path, images)"
                )
            entry = archive.getinfo(f"{wanted}.npy")
            with archive.open(entry) as member:
                yield entry, member
    except ArtefactError:
        raise
    except _UNREADABLE as error:
        raise ArtefactError(
            f"{path}: holds no readable {wanted} ({error}); write it again, of our own samples by jobs.sample_images"
        ) from None


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def _header(member: IO[bytes]) -> _Header:
    """What an array says of itself; the stream then stands at its first number."""
    version = np.lib.format.read_magic(member)
    reader = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    return _Header(*reader(member))


def _check_layout(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, *, fortran_order: bool
) -> None:
    if np.issubdtype(dtype, np.floating):
        raise ArtefactError(
            f"{path}: {IMAGES_ARRAY} is {dtype}; images must be uint8 from 0 to 255: round them, of values x in "
            "[-1, 1] as floor(127.5 x + 128) clipped to 0 .. 255, and write them again"
        )
    if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8 or fortran_order:
        order = " in Fortran's order" if fortran_order else ""
        raise ArtefactError(
            f"{path}: {IMAGES_ARRAY} is {dtype} {shape}{order}; must be uint8 (n, height, width, 3), written by "
            "numpy.savez"
        )
