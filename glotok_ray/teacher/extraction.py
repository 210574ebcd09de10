"""Features of drawn images: the worker that turns one shard into a part on disk.

Read next: glotok_ray/teacher/feature_parts.py
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.teacher import FeatureNetworkConfig
from glotok_ray.data.drawing import DrawnRows
from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.data.records import ShardInfo
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.data.shard_reader import decoded_rows, read_drawn_rows
from glotok_ray.data.transforms import center_crop
from glotok_ray.devices import chosen_device
from glotok_ray.storage.places import to_path
from glotok_ray.teacher import features
from glotok_ray.teacher.feature_parts import Part, write_part


class DrawnImage(NamedTuple):
    """A decoded image of a shard."""

    key: str
    label: int
    pixels: UInt8[np.ndarray, "side side 3"]


class FeatureActor:
    """Feature vectors of drawn rows of one shard, written to a part in `folder`."""

    def __init__(
        self,
        network: FeatureNetworkConfig,
        *,
        data_path: str,
        folder: str,
        vectors_per_image: int,
        seed: int,
        pool: PoolConfig,
    ) -> None:
        self._config, self._pool = network, pool
        self._data_path, self._folder = to_path(data_path), to_path(folder)
        self._vectors_per_image, self._seed = vectors_per_image, seed
        self._device = chosen_device(use_gpu=pool.use_gpu)
        self._network = features.build_feature_network(network, self._device)

    def __call__(self, unit: DrawnRows) -> Part:
        """The written part; vectors image by image. Raises ValueError for features that are not finite."""
        vectors, labels, broken, images = [], [], [], 0
        drawn = self._decoded(unit, broken)
        while batch := list(itertools.islice(drawn, self._pool.batch_size)):
            for image, feature_map in zip(batch, self._maps(batch), strict=True):
                found = self._vectors(image.key, feature_map, unit.shard)
                vectors.append(found)
                labels += [image.label] * len(found)
            images += len(batch)
        if not vectors:
            vectors = [np.empty((0, features.channels(self._config)), np.float32)]
        return write_part(
            part_path(self._folder, unit.shard),
            np.concatenate(vectors),
            np.array(labels, np.int32),
            images=images,
            broken=broken,
        )

    def _decoded(self, unit: DrawnRows, broken: list[str]) -> Iterator[DrawnImage]:
        """The drawn images in order; keys of those that cannot be decoded are added to `broken`."""
        pool, side = self._pool, self._config.input_size
        table = read_drawn_rows(
            self._data_path, unit.shard, unit.rows, minutes=pool.storage_retry_minutes
        )
        rows = decoded_rows(
            table,
            lambda image: center_crop(image, side)[np.newaxis],
            num_threads=pool.decoding_threads,
            ahead=pool.batch_size,
        )
        for row, label in zip(rows, table["label"].to_pylist(), strict=True):
            if row.views is None:
                broken.append(row.key)
            else:
                yield DrawnImage(row.key, label, row.views[0])

    @torch.inference_mode()
    def _maps(self, batch: list[DrawnImage]) -> Float[Tensor, "b channels h w"]:
        pixels = np.stack([image.pixels for image in batch])
        return self._network.spatial(to_model_range(pixels, self._device)).float().cpu()

    def _vectors(
        self, key: str, feature_map: Float[Tensor, "channels h w"], shard: ShardInfo
    ) -> Float[np.ndarray, "vectors channels"]:
        """The drawn vectors of one image, which its key decides."""
        generator = seeded_generator("vectors", self._seed, key)
        vectors = features.draw_vectors(feature_map, self._vectors_per_image, generator)
        if not torch.isfinite(vectors).all():
            raise ValueError(
                f"{shard.file}: the features of image {key!r} hold NaN or infinite values; check "
                f"the weights of {self._config.name}"
            )
        return vectors.numpy()


def part_path(folder: Path, shard: ShardInfo) -> Path:
    """Where the part of a shard lies."""
    return folder / f"{Path(shard.file).stem}.parquet"
