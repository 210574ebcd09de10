"""All images of one kind, read from their parts in image order: block by block, or one number per image at once.

Read next: glotok_ray/evaluation/metrics.py
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from glotok_ray.evaluation import parts
from glotok_ray.evaluation.array_names import IMAGE_IDS
from glotok_ray.evaluation.parts import PlannedPart
from glotok_ray.evaluation.statistics_cache import StatisticsKey
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand


class StoredArray:
    """An array of all images of a kind as blocks of rows; each pass over it reads the parts anew."""

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self._paths, self._name = paths, name

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "b ..."]]:
        for path in self._paths:
            yield from parts.read_rows(path, self._name)


class PartSet(NamedTuple):
    """Parts that hold all images of one kind, each once."""

    folder: Path
    planned: Sequence[PlannedPart]
    key: StatisticsKey | None = None
    """Of what is kept for later evaluations: all that it depends on."""


class MeasuredImages:
    """The arrays of all images of one kind; in each set of parts every image is in exactly one of them."""

    def __init__(
        self, folder: Path, planned: Sequence[PlannedPart], kept: Sequence[PartSet] = ()
    ) -> None:
        """The parts in `folder`, or none where all arrays are in the sets that are kept elsewhere.

        Raises ArtefactError when an image from 0 on is missing in a set, or is in more than one of its parts.
        """
        sets = [PartSet(folder, planned)] if planned else []
        self._folder = folder
        self._paths: dict[str, list[Path]] = {}
        self._layout: dict[str, Any] = {}
        self._kept: dict[str, PartSet] = {}
        for one in (*sets, *kept):
            ordered = sorted(one.planned, key=lambda part: part.start)
            self.kind, self.count = ordered[0].kind, ordered[-1].stop
            paths = [one.folder / part.name for part in ordered]
            self._check_ids(ordered, paths)
            for name, layout in parts.stored_layout(paths[0]).items():
                self._paths.setdefault(name, paths)
                self._layout.setdefault(name, layout)
                if one.key is not None:
                    self._kept.setdefault(name, one)

    def _check_ids(self, planned: Sequence[PlannedPart], paths: Sequence[Path]) -> None:
        """The ids as they are stored, so that a part under a wrong name is found as well."""
        expected = 0
        for part, path in zip(planned, paths, strict=True):
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
                f"{paths[-1]}: {_images(expected, self.count)} of {self.kind} are missing; {_REMEDY}"
            )

    def __contains__(self, name: str) -> bool:
        """Whether the kind has arrays or pictures of this name."""
        return name in self._layout

    def kept(self, name: str) -> PartSet | None:
        """Where an array lies that later evaluations read too; None of one that is this evaluation's own."""
        return self._kept.get(name)

    def blocks(self, name: str) -> StoredArray:
        """An array block by block, in image order."""
        assert name in self, f"{self.kind} has no {name}"
        return StoredArray(self._paths[name], name)

    def column(self, name: str) -> Shaped[np.ndarray, " n"]:
        """An array of one number per image, at once."""
        return np.concatenate(list(self.blocks(name)))

    def rows(self, name: str) -> Shaped[np.ndarray, "n d"]:
        """An array of which any rows can be read: a memory map of a copy beside the job's own parts."""
        path = self._folder / f"{self.kind}.{name}.npy"
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
        return np.load(at_hand(path), mmap_mode="r")

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


def open_measured(
    folder: Path, planned: Sequence[PlannedPart], kept: Sequence[PartSet] = ()
) -> dict[str, MeasuredImages]:
    """The images of all kinds, from the evaluation's own parts in `folder` and from those that are kept elsewhere;
    raises ArtefactError as MeasuredImages does.
    """
    own: dict[str, list[PlannedPart]] = {}
    for part in planned:
        own.setdefault(part.kind, []).append(part)
    elsewhere: dict[str, list[PartSet]] = {}
    for one in kept:
        elsewhere.setdefault(one.planned[0].kind, []).append(one)
    return {
        kind: MeasuredImages(folder, own.get(kind, []), elsewhere.get(kind, []))
        for kind in {**own, **elsewhere}
    }
