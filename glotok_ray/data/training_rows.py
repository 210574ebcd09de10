"""Reading the rows of one plan unit: augmented images for tokenizers, codes for generators.

Every random choice is keyed by (seed, epoch, key), so a row is the same wherever and whenever it is read. Beside what
is learned from, rows have "position" (their place in the order of the run), "key", and "broken": empty, or why the row
could not be used; another row of the unit then stands in its place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from numpy import ndarray

from glotok_ray.config.training import ImageDataConfig
from glotok_ray.data.image_places import DAMAGED
from glotok_ray.data.records import DatasetInfo
from glotok_ray.data.shard_parts import read_images_of_part, read_part
from glotok_ray.data.shard_plan import PlanUnit, ShardRows
from glotok_ray.data.training_crops import (
    CropPlace,
    CropRule,
    Decoding,
    ImageSize,
    crop_function,
)
from glotok_ray.data.transforms import row_generator
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path


def shard_rows(dataset: DatasetInfo, rows_per_image: int = 1) -> list[ShardRows]:
    """The shards of a dataset as the plan sees them, in images."""
    return [ShardRows(shard.file, shard.rows // rows_per_image) for shard in dataset.shards]


def expect_images(dataset: DatasetInfo, folder: str, expected: int) -> int:
    """The number of images; raises ArtefactError when a recipe expects another (0 expects nothing)."""
    if expected not in (0, dataset.num_images):
        lost = (
            f" ({dataset.num_unreadable} files of both splits could not be read when they were sharded; its "
            "dataset.json names them)"
            if dataset.num_unreadable
            else ""
        )
        raise ArtefactError(
            f"data.num_train_images = {expected}: {folder} holds {dataset.num_images} images{lost}; "
            "correct the path or the number (0 takes what is there)"
        )
    return dataset.num_images


class EncodedRows(NamedTuple):
    """The rows of a unit as they are stored, in its order."""

    unit: PlanUnit
    images: list[bytes | None]
    """None for one whose bytes are not those that were written."""
    keys: list[str]
    paths: list[Path]
    """The file of each row."""


@dataclass(frozen=True)
class ImageRows:
    """Reads image shards: decoded, cropped, perhaps mirrored, uint8 "image" (n, 3, size, size)."""

    folder: Path
    seed: int
    image_size: int
    crop: str
    horizontal_flip: bool
    skip_broken: bool = False
    """Put another row in the place of one that cannot be decoded; off raises ArtefactError for it."""
    retry_minutes: float = 0.0
    """Minutes for which a file that cannot be read is tried again."""
    decoding: Decoding = "exact"

    @classmethod
    def of(
        cls, data: ImageDataConfig, *, seed: int, image_size: int, retry_minutes: float
    ) -> "ImageRows":
        """The reader of a run's training shards."""
        return cls(
            to_path(data.train_path).absolute(),
            seed,
            image_size,
            data.crop,
            data.horizontal_flip,
            data.max_bad_rows > 0,
            retry_minutes,
            data.decoding,
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as it is handed on."""
        return 3 * self.image_size**2

    def __call__(self, unit: PlanUnit) -> dict[str, Any]:
        """The unit's rows in its order."""
        rows = self.read(unit)
        images = self.empty(rows)
        broken = [self.decode_into(images, rows, place) for place in range(len(images))]
        return self.columns(rows, images, broken)

    def read(self, unit: PlanUnit) -> EncodedRows:
        """The unit's rows, encoded."""
        count = len(unit.positions)
        rows = EncodedRows(unit, [b""] * count, [""] * count, [self.folder] * count)
        for part in unit.parts:
            path = self.folder / part.shard.file
            found = read_images_of_part(
                path, part.shard.rows, part.rows, minutes=self.retry_minutes
            )
            for place, key, encoded in zip(part.places.tolist(), *found, strict=True):
                rows.keys[place], rows.images[place], rows.paths[place] = key, encoded, path
        return rows

    def empty(self, rows: EncodedRows) -> ndarray:
        """Room for the images of `rows`."""
        return np.zeros((len(rows.keys), 3, self.image_size, self.image_size), dtype=np.uint8)

    def decode_into(self, images: ndarray, rows: EncodedRows, place: int) -> str:
        """Decode one row to its place; returns why it is broken, empty where it is not. Threads may do so at once."""
        key = rows.keys[place]
        rule = CropRule(self.image_size, self.crop, self.horizontal_flip)

        def place_of(picture: ImageSize) -> CropPlace:
            return rule.place(picture, row_generator(self.seed, rows.unit.epoch, key))

        try:
            encoded = rows.images[place]
            if encoded is None:
                raise ArtefactError(
                    f"row {key!r}: {DAMAGED}; restore the file, or rebuild the shards with --fresh"
                )
            images[place] = crop_function(self.decoding)(encoded, key, place_of)
        except ArtefactError as error:
            if not self.skip_broken:
                raise ArtefactError(f"{rows.paths[place]}: {error}") from None
            return f"{rows.paths[place]}: {error}"
        return ""

    def columns(self, rows: EncodedRows, images: ndarray, broken: list[str]) -> dict[str, Any]:
        """The columns of decoded rows; others stand in the places of broken ones."""
        _stand_in(images, broken)
        return {
            "image": images,
            "position": rows.unit.positions,
            "key": rows.keys,
            "broken": broken,
        }


def _stand_in(images: ndarray, broken: list[str]) -> None:
    """Copies of the unit's next usable rows in the places of broken ones."""
    usable = [place for place, reason in enumerate(broken) if not reason]
    if not usable:
        raise ArtefactError(f"none of {len(broken)} rows can be used, the first: {broken[0]}")
    for place, reason in enumerate(broken):
        if reason:
            images[place] = images[next((good for good in usable if good > place), usable[0])]


@dataclass(frozen=True)
class CodeRows:
    """Reads codes: int32 (n, positions) under each column's name, int64 "label" (n,); one view per image and epoch."""

    folder: Path
    seed: int
    num_views: int
    code_counts: Mapping[str, int]
    """Number of codes by the name of their column."""
    num_classes: int
    num_indices: int = 512
    """Codes per image, of all columns, from which the memory of a unit is foretold."""
    retry_minutes: float = 0.0
    """Minutes for which a file that cannot be read is tried again."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as it is handed on."""
        return 4 * self.num_indices

    def __call__(self, unit: PlanUnit) -> dict[str, Any]:
        """The unit's images in its order."""
        parts = [self._part(unit, number) for number in range(len(unit.parts))]
        for part, rows in zip(unit.parts, parts, strict=True):
            self._check_indices(self.folder / part.shard.file, rows)
        order = np.argsort(np.concatenate([part.places for part in unit.parts]))
        rows = pyarrow.concat_tables(parts).take(order)
        grids = {name: _matrix(rows[name]).astype(np.int32) for name in self.code_counts}
        return {
            **grids,
            "label": rows["label"].to_numpy().astype(np.int64),
            "position": unit.positions,
            "key": rows["key"].to_pylist(),
            "broken": [""] * len(order),
        }

    def _check_indices(self, path: Path, rows: pyarrow.Table) -> None:
        """Refuse what dataset.json does not allow: on a GPU such an index ends all work without saying where it was."""
        limits = {"label": self.num_classes, **self.code_counts}
        for name, limit in limits.items():
            values = rows[name].combine_chunks()
            numbers = (values if name == "label" else values.flatten()).to_numpy(
                zero_copy_only=False
            )
            least, most = numbers.min(), numbers.max()
            # Missing values become NaN, which no comparison holds for.
            if not (least >= 0 and most < limit):
                raise ArtefactError(
                    f"{path}: column {name!r} holds {least} to {most}, and dataset.json allows 0 to {limit - 1}; "
                    "encode the images again with --fresh"
                )

    def _part(self, unit: PlanUnit, number: int) -> pyarrow.Table:
        """The chosen view of each image of a part."""
        part, views = unit.parts[number], self.num_views
        columns = ["key", "label", *self.code_counts]
        table = read_part(
            self.folder / part.shard.file,
            part.shard.rows * views,
            (part.rows[:, None].astype(np.int64) * views + np.arange(views)).reshape(-1),
            columns,
            minutes=self.retry_minutes,
        )
        if views == 1:
            return table
        keys = table["key"].take(np.arange(len(part.rows)) * views).to_pylist()
        chosen = [int(row_generator(self.seed, unit.epoch, key).integers(views)) for key in keys]
        return table.take(np.arange(len(keys)) * views + np.array(chosen, dtype=np.int64))


def _matrix(column: pyarrow.ChunkedArray) -> ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
