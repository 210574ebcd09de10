"""Samples that no job of this package drew: an npz in ADM's layout, or a plain folder of PNG or JPEG files.

They have no manifest, so all that is known of them is what the files hold; protocols name them by their sha256.
Read next: glotok_ray/evaluation/sample_files.py
"""

import hashlib
import io
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from glotok_ray.data.image_files import to_rgb
from glotok_ray.evaluation.extractors import Network
from glotok_ray.evaluation.features import POOLED
from glotok_ray.evaluation.sample_files import IMAGES_ARRAY, stored_images, stored_labels
from glotok_ray.metrics.frechet import rank_warning
from glotok_ray.storage import artefact, marks
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.digests import read_files, sha256_of
from glotok_ray.storage.places import entries, is_remote

logger = logging.getLogger(__name__)

IMAGES_FILE = "samples.npz"
"""Of a folder of our own samples."""
_SUFFIXES = (".png", ".jpg", ".jpeg")
# Header reads wait for storage most of the time.
_THREADS = 16


class ForeignSamples(NamedTuple):
    """What lies at a path of foreign samples."""

    path: Path
    files: tuple[str, ...]
    """Names of a folder's images in their order; empty for an npz."""
    num_images: int
    image_size: int
    """Side of the square images, pixels."""
    labels: Int64[np.ndarray, " n"] | None
    """Class numbers, where an npz has them."""

    @property
    def sha256(self) -> str:
        """Of an npz; of a folder, of its images' names and digests in their order. Reads every byte."""
        if not self.files:
            return sha256_of(self.path)
        digest = hashlib.sha256()
        for name, read in zip(
            self.files, read_files([self.path / name for name in self.files]), strict=True
        ):
            if read.error:
                raise ArtefactError(f"{read.path}: not readable ({read.error}); mend or remove it")
            digest.update(f"{name}\0{read.sha256}\n".encode())
        return digest.hexdigest()

    def text(self, sha256: str) -> str:
        """What they are, as a sentence of a protocol."""
        where = f"{self.num_images} images of {self.path.name} (sha256 {sha256[:12]})"
        if self.files:
            jpeg = sum(not name.lower().endswith(".png") for name in self.files)
            kinds = f"{self.num_images - jpeg} PNG, {jpeg} JPEG" if jpeg else "PNG"
            where = (
                f"{self.num_images} {kinds} files of the folder {self.path.name} (sha256 {sha256[:12]} of their list), "
                "in the order of their names"
            )
        labels = "no labels" if self.labels is None else "labels, taken as places in the classes"
        return f"The samples are the {where}, which this package did not draw: they come with {labels}."


def is_foreign(path: Path) -> bool:
    """Whether a samples_path is no folder that `sample_images` wrote or began."""
    if path.is_file() or path.suffix == ".npz":
        return True
    own = (artefact.MANIFEST, marks.MARK, IMAGES_FILE)
    return path.is_dir() and not any((path / name).exists() for name in own)


def read_foreign(path: Path, *, image_size: int = 0) -> ForeignSamples:
    """What lies at `path`, of images their headers alone, and not even these where the side of all is known.

    Raises ArtefactError for what cannot be measured.
    """
    found = _in_folder(path, image_size) if path.is_dir() else _in_npz(path)
    if found.num_images == 0:
        raise ArtefactError(f"{path}: holds no image; correct the path")
    return found


def warn_of_few(samples: ForeignSamples, networks: Sequence[Network]) -> None:
    """Say before anything is measured that there are fewer images than features, with both numbers."""
    for network in networks:
        warning = rank_warning(samples.num_images, network.outputs[POOLED], "samples")
        if warning:
            logger.warning("%s: in features of %s, %s", samples.path, network.name, warning)


def read_files_of(
    samples: ForeignSamples, start: int, stop: int, *, num_threads: int
) -> UInt8[np.ndarray, "b h w 3"]:
    """Images start .. stop of a folder; raises ArtefactError for one that is damaged or was changed."""
    names = samples.files[start:stop]
    with ThreadPoolExecutor(max(1, num_threads)) as threads:
        images = list(threads.map(lambda name: _pixels(samples.path / name), names))
    for name, image in zip(names, images, strict=True):
        _check_side(samples.path / name, (image.shape[1], image.shape[0]), samples.image_size)
    return np.stack(images)


def _in_npz(path: Path) -> ForeignSamples:
    count, height, width, _ = stored_images(path).shape
    if height != width:
        raise ArtefactError(
            f"{path}: {IMAGES_ARRAY} has images of {width} x {height} pixels; must be square, as crops are"
        )
    return ForeignSamples(path, (), count, height, stored_labels(path))


def _in_folder(path: Path, known_side: int) -> ForeignSamples:
    found = entries(path)
    files = sorted(
        (entry.path.name for entry in found if entry.path.suffix.lower() in _SUFFIXES),
        key=_by_number,
    )
    if not files:
        inside = sum(entry.is_dir for entry in found)
        folders = f"; it has {inside} folders, and images in them are not read" if inside else ""
        raise ArtefactError(
            f"{path}: holds no PNG or JPEG image{folders}; give the folder that the images lie in, or an npz with "
            f"{IMAGES_ARRAY}"
        )
    side = known_side or _common_side(path, files)
    return ForeignSamples(path, tuple(files), len(files), side, None)


def _common_side(path: Path, files: Sequence[str]) -> int:
    """The side of all images, from their headers; raises ArtefactError for one of another."""
    side = 0
    with ThreadPoolExecutor(_THREADS) as threads:
        sizes = threads.map(lambda name: _size(path / name), files)
        for name, size in zip(files, sizes, strict=True):
            side = side or size[0]
            _check_side(path / name, size, side, files[0])
    return side


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts "10.png" behind "9.png"."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def _check_side(path: Path, size: Sequence[int], side: int, first: str = "") -> None:
    if tuple(size) != (side, side):
        others = f"the first, {first}, has width {side}" if first else f"the others have {side}"
        raise ArtefactError(
            f"{path}: {size[0]} x {size[1]} pixels, and {others}; all images must be square and of one size: leave "
            "this one out, or cut it"
        )


def _opened(path: Path) -> Image.Image:
    """The image of a file, or of an object, which is then read whole."""
    place = io.BytesIO(path.read_bytes()) if is_remote(path) else path
    return Image.open(place, formats=("PNG", "JPEG"))


def _size(path: Path) -> tuple[int, int]:
    try:
        with _opened(path) as image:
            return image.size
    # Pillow's plugins raise many kinds of errors on damaged files.
    except Exception as error:
        raise ArtefactError(_unreadable(path, error)) from None


def _pixels(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with _opened(path) as image:
            image.load()
            found = to_rgb(image)
    except Exception as error:
        raise ArtefactError(_unreadable(path, error)) from None
    if found.change:
        raise ArtefactError(
            f"{path}: would be {found.change}; samples must be opaque and of 8 bits: write them so"
        )
    return np.asarray(found.image)


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).replace(str(path), path.name) or type(error).__name__
    # Of an object Pillow names the bytes in memory.
    reason = re.sub(r"<_io\.BytesIO[^>]*>", repr(path.name), reason)
    return f"{path}: holds no readable PNG or JPEG image ({reason}); mend it, or leave it out"
