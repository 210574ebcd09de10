"""The first real crops of each class from a folder of shards, to stand beside samples of that class.

Read next: glotok_ray/data/shard_reader.py
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from glotok_ray.data.records import ShardInfo, decode_image, read_dataset
from glotok_ray.data.shard_reader import read_labels, read_shard_rows
from glotok_ray.data.transforms import center_crop
from glotok_ray.report.images import LabelledImages

# The page is written after all that takes long; storage that is away now is a missing part.
_PATIENCE_MINUTES = 0.0


def read_real_crops(
    folder: Path, *, classes: Collection[int], per_class: int, image_size: int
) -> LabelledImages:
    """At most `per_class` images of each of `classes`, in shard order, centre-cropped to `image_size` pixels.

    Reads labels of shards until each class has enough, and only the images that it keeps. Raises ArtefactError,
    StorageError or OSError for what cannot be read, and ValueError when there is none.
    """
    left = dict.fromkeys(classes, per_class)
    images, labels = [], []
    for shard in read_dataset(folder).shards:
        if not any(left.values()):
            break
        found = read_labels(folder, shard, minutes=_PATIENCE_MINUTES)
        for index, label in enumerate(found.tolist()):
            if left.get(label):
                left[label] -= 1
                images.append(_read_image(folder, shard, index, image_size))
                labels.append(label)
    if not images:
        raise ValueError("holds no image of the classes shown")
    return LabelledImages(np.stack(images), labels)


def _read_image(folder: Path, shard: ShardInfo, index: int, image_size: int) -> np.ndarray:
    path = folder / shard.file
    row = read_shard_rows(path, index, index + 1, minutes=_PATIENCE_MINUTES)
    image = decode_image(row["image"][0].as_py(), row["key"][0].as_py())
    return center_crop(image, image_size)
