"""The images of benchmarks/ingest.py: photograph-like JPEGs of 500 x 375 pixels in the form that each loader reads.

Amplitudes fall as 1 / frequency and edges cross the picture, so files are about as large as ImageNet's (110 kB).
"""

import io
import multiprocessing
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glotok_ray.data.image_files import resize_short_side
from glotok_ray.data.records import Row, write_shard

WIDTH, HEIGHT = 500, 375
PICTURES = 256
"""Different pictures; each is stored several times, under other names."""
ROWS_PER_SHARD = 256
CLASSES = 4
RESIZED_SHORT_SIDE, RESIZED_QUALITY = 288, 95


def picture(seed: int) -> Image.Image:
    """A picture with the spectrum and the edges of a photograph."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = np.inf

    def field(exponent: float) -> np.ndarray:
        waves = draw.normal(size=frequency.shape) + 1j * draw.normal(size=frequency.shape)
        levels = np.fft.irfft2(waves / frequency**exponent, s=(HEIGHT, WIDTH))
        return levels / levels.std()

    light = field(1.1)
    for _ in range(3):
        light += (field(2.0) > draw.normal()) * draw.normal()
    light = (light - light.mean()) / light.std()
    levels = np.stack([128 + 55 * light, 128 + 14 * field(1.6), 128 + 14 * field(1.6)], axis=-1)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8), "YCbCr").convert("RGB")


def _encoded(seed: int) -> tuple[bytes, bytes]:
    """The picture's JPEG, and that of it resized."""
    image = picture(seed)
    return _jpeg(image, 92), _jpeg(resize_short_side(image, RESIZED_SHORT_SIDE), RESIZED_QUALITY)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def make_images(folder: Path, copies: int) -> None:
    """All forms below `folder`, where they are not there already."""
    done = folder / f"done-{copies}"
    if done.is_file():
        return
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        found = pool.map(_encoded, range(PICTURES), chunksize=8)
    originals, resized = ([pair[number] for pair in found] for number in (0, 1))
    _write_shards(folder / "shards", originals, copies)
    _write_shards(folder / "resized", resized, copies)
    _write_folders(folder / "folders", originals, copies)
    _write_tars(folder / "tars", originals, copies)
    _write_mds(folder / "mds", originals, copies)
    done.touch()


def shard_files(folder: Path) -> list[Path]:
    """The shards of a form, in order."""
    return sorted(folder.glob("*.parquet"))


def _names(images: list[bytes], copies: int) -> Iterator[tuple[int, str, bytes]]:
    """Every image: its number, its key, its bytes."""
    for number in range(copies * len(images)):
        yield number, f"{number:06d}", images[number % len(images)]


def _write_shards(folder: Path, images: list[bytes], copies: int) -> None:
    folder.mkdir(parents=True)
    rows = [Row(key, encoded, n % CLASSES) for n, key, encoded in _names(images, copies)]
    for start in range(0, len(rows), ROWS_PER_SHARD):
        path = folder / f"part-{start // ROWS_PER_SHARD:05d}.parquet"
        write_shard(path, rows[start : start + ROWS_PER_SHARD])


def _write_folders(folder: Path, images: list[bytes], copies: int) -> None:
    for number, key, encoded in _names(images, copies):
        path = folder / f"class{number % CLASSES}" / f"{key}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)


def _write_tars(folder: Path, images: list[bytes], copies: int) -> None:
    folder.mkdir(parents=True)
    rows = list(_names(images, copies))
    for start in range(0, len(rows), ROWS_PER_SHARD):
        with tarfile.open(folder / f"part-{start // ROWS_PER_SHARD:05d}.tar", "w") as archive:
            for _, key, encoded in rows[start : start + ROWS_PER_SHARD]:
                member = tarfile.TarInfo(f"{key}.jpg")
                member.size = len(encoded)
                archive.addfile(member, io.BytesIO(encoded))


def _write_mds(folder: Path, images: list[bytes], copies: int) -> None:
    """The form of mosaicml-streaming; none where the package is not installed."""
    try:
        import streaming
    except ImportError:
        return
    columns: Any = {"image": "bytes", "key": "str"}
    with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
        for _, key, encoded in _names(images, copies):
            writer.write({"image": encoded, "key": key})
