"""All images of one kind, read from their parts in image order: block by block, or one number per image at once.

Read next: glotok_ray/evaluation/metrics.py
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from glotok_ray.evaluation import parts
from glotok_ray.evaluation.array_names import IMAGE_IDS
from glotok_ray.evaluation.parts import PlannedPart
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError


class StoredArray:
    """An array of all images of a kind as blocks of rows; each pass over it reads the parts anew."""

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self._paths, self._name = paths, name

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "b ..."]]:
        for path in self._paths:
            yield from parts.read_rows(path, self._name)


class MeasuredImages:
    """The arrays of all images of one kind; every image is in exactly one part."""

    def __init__(self, folder: Path, planned: Sequence[PlannedPart]) -> None:
        """Raises ArtefactError when an image from 0 on is missing, or is in more than one of the parts."""
        planned = sorted(planned, key=lambda part: part.start)
        self.kind, self.count = planned[0].kind, planned[-1].stop
        self._paths = [folder / part.name for part in planned]
        self._check_ids(planned)
        self._layout = parts.stored_layout(self._paths[0])

    def _check_ids(self, planned: Sequence[PlannedPart]) -> None:
        """The ids as they are stored, so that a part under a wrong name is found as well."""
        expected = 0
        for part, path in zip(planned, self._paths, strict=True):
            if not path.is_file():
                raise ArtefactError(
                    f"{path}: {_images(part.start, part.stop)} of {self.kind} are missing; {_REMEDY}"
                )
            ids = np.concatenate(list(parts.read_rows(path, IMAGE_IDS)))
            wanted = np.arange(expected, expected + len(ids))
            if not np.array_equal(ids, wanted):
                place = int(np.argmax(ids != wanted))
                what = "is counted twice" if ids[place] < wanted[place] else "is missing"
                lost = min(ids[place], wanted[place])
                raise ArtefactError(f"{path}: image {lost} of {self.kind} {what}; {_REMEDY}")
            expected += len(ids)
        if expected != self.count:
            raise ArtefactError(
                f"{self._paths[-1]}: {_images(expected, self.count)} of {self.kind} are missing; {_REMEDY}"
            )

    def __contains__(self, name: str) -> bool:
        """Whether the kind has arrays or pictures of this name."""
        return name in self._layout

    def blocks(self, name: str) -> StoredArray:
        """An array block by block, in image order."""
        assert name in self, f"{self.kind} has no {name}"
        return StoredArray(self._paths, name)

    def column(self, name: str) -> Shaped[np.ndarray, " n"]:
        """An array of one number per image, at once."""
        return np.concatenate(list(self.blocks(name)))

    def rows(self, name: str) -> Shaped[np.ndarray, "n d"]:
        """An array of which any rows can be read: a memory map of a copy beside the parts."""
        path = self._paths[0].with_name(f"{self.kind}.{name}.npy")
        if not path.is_file():
            layout = self._layout[name]
            with artefact.replacing(path) as temporary:
                copy = np.lib.format.open_memmap(
                    temporary, "w+", np.dtype(layout["dtype"]), (self.count, *layout["shape"])
                )
                start = 0
                for block in self.blocks(name):
                    copy[start : start + len(block)] = block
                    start += len(block)
                copy.flush()
        return np.load(path, mmap_mode="r")

    def pictures(self, name: str) -> UInt8[np.ndarray, "kept h w 3"]:
        """The pictures that were kept, those of the first images."""
        found = []
        for block in self.blocks(name):
            if len(block) == 0:
                break
            found.append(block)
        return np.concatenate(found or [np.empty((0, 0, 0, 3), np.uint8)])


_REMEDY = "start the evaluation again with --fresh"


def _images(start: int, stop: int) -> str:
    return f"images {start} to {stop - 1}"


def open_measured(folder: Path, planned: Sequence[PlannedPart]) -> dict[str, MeasuredImages]:
    """The images of all kinds, in the plan's order of kinds; raises ArtefactError as MeasuredImages does."""
    by_kind = itertools.groupby(planned, key=lambda part: part.kind)
    return {kind: MeasuredImages(folder, list(group)) for kind, group in by_kind}
