"""Reading the rows of one plan unit: augmented images for tokenizers, codes for generators.

Every random choice is keyed by (seed, epoch, key), so a row is the same wherever and whenever it is read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet

from glotok_ray.artefact import ArtefactError
from glotok_ray.config import ImageDataConfig
from glotok_ray.data.records import DatasetInfo, decode_image
from glotok_ray.data.shard_plan import PlanUnit, ShardRows, row_order
from glotok_ray.data.transforms import center_crop, random_crop, row_generator


def shard_rows(dataset: DatasetInfo, rows_per_image: int = 1) -> list[ShardRows]:
    """The shards of a dataset as the plan sees them, in images."""
    return [ShardRows(shard.file, shard.rows // rows_per_image) for shard in dataset.shards]


def expect_images(dataset: DatasetInfo, folder: str, expected: int) -> int:
    """The number of images; raises ArtefactError when a recipe expects another (0 expects nothing)."""
    if expected not in (0, dataset.num_images):
        raise ArtefactError(
            f"data.num_train_images = {expected}: {folder} holds {dataset.num_images} images; "
            "correct the path or the number (0 takes what is there)"
        )
    return dataset.num_images


@dataclass(frozen=True)
class ImageRows:
    """Reads image shards: decoded, cropped, perhaps mirrored, uint8 "image" (n, 3, size, size)."""

    folder: Path
    seed: int
    image_size: int
    crop: str
    horizontal_flip: bool

    @classmethod
    def of(cls, data: ImageDataConfig, *, seed: int, image_size: int) -> "ImageRows":
        """The reader of a run's training shards."""
        return cls(
            Path(data.train_path).absolute(), seed, image_size, data.crop, data.horizontal_flip
        )

    def __call__(self, unit: PlanUnit) -> dict[str, np.ndarray]:
        """The unit's rows in the epoch's order."""
        table = pyarrow.parquet.read_table(self.folder / unit.file, columns=["key", "image"])
        order = row_order(self.seed, unit.epoch, ShardRows(unit.file, table.num_rows))[
            unit.start : unit.stop
        ]
        keys, encoded = table["key"].to_pylist(), table["image"]
        images = [
            self._augment(decode_image(encoded[int(row)].as_py(), keys[row]), unit.epoch, keys[row])
            for row in order
        ]
        return {"image": np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))}

    def _augment(self, image: np.ndarray, epoch: int, key: str) -> np.ndarray:
        generator = row_generator(self.seed, epoch, key)
        cropped = (
            random_crop(image, self.image_size, generator)
            if self.crop == "random"
            else center_crop(image, self.image_size)
        )
        return cropped[:, ::-1] if self.horizontal_flip and generator.random() < 0.5 else cropped


@dataclass(frozen=True)
class CodeRows:
    """Reads codes: int32 (n, h*w) under each codebook's name, int64 "label" (n,); one view per image and epoch."""

    folder: Path
    seed: int
    num_views: int
    codebooks: tuple[str, ...]

    def __call__(self, unit: PlanUnit) -> dict[str, np.ndarray]:
        """The unit's images in the epoch's order."""
        table = pyarrow.parquet.read_table(self.folder / unit.file)
        images = table.num_rows // self.num_views
        order = row_order(self.seed, unit.epoch, ShardRows(unit.file, images))[
            unit.start : unit.stop
        ]
        keys = table["key"].to_pylist()
        views = [
            int(
                row_generator(self.seed, unit.epoch, keys[row * self.num_views]).integers(
                    self.num_views
                )
            )
            for row in order
        ]
        chosen = table.take(order * self.num_views + np.array(views, dtype=np.int64))
        grids = {name: _matrix(chosen[name]).astype(np.int32) for name in self.codebooks}
        return {**grids, "label": chosen["label"].to_numpy().astype(np.int64)}


def _matrix(column: pyarrow.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
