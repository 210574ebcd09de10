"""The worker that turns a shard into a part of features, in this process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glotok_ray.config import FeatureNetworkConfig
from glotok_ray.data.drawing import DrawnRows
from glotok_ray.data.records import read_dataset
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher import feature_parts
from glotok_ray.teacher.extraction import FeatureActor
from tests.small_data import small_pool, write_shards


def feature_actor(shards: Path, folder: Path) -> FeatureActor:
    return FeatureActor(
        FeatureNetworkConfig(name="efficientnet_lite0", input_size=64),
        data_path=str(shards),
        folder=str(folder),
        vectors_per_image=3,
        seed=0,
        pool=small_pool(),
    )


def test_a_part_has_the_vectors_of_all_images_that_can_be_decoded(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", broken=(2, 5))
    shard = read_dataset(shards).shards[1]
    part = feature_actor(shards, tmp_path / "parts")(DrawnRows(shard, [0, 2, 3, 9]))
    assert (part.images, part.count, part.broken) == (3, 9, ["1/2"])
    assert feature_parts.read_labels(part).tolist() == [0] * 9
    (shards / shard.file).write_bytes(b"changed")
    with pytest.raises(ArtefactError, match=r"part-00001\.parquet: differs from its sha256"):
        feature_actor(shards, tmp_path / "parts")(DrawnRows(shard, [0]))


def test_features_that_are_not_finite_are_named_and_leave_no_part(
    tmp_path: Path,
) -> None:
    shards = write_shards(tmp_path / "shards")
    parts = tmp_path / "parts"
    parts.mkdir()
    actor = feature_actor(shards, parts)
    unit = DrawnRows(read_dataset(shards).shards[0], [1, 5, 6])
    actor._network.network._bn1.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match=r"part-00000\.parquet: .*image '0/\d+' hold NaN.*lite0"):
        actor(unit)
    with pytest.raises(ValueError, match=r"1 of 4 feature vectors"):
        feature_parts.write_part(
            parts / "part.parquet",
            np.float32([[0, 1], [np.nan, 1], [2, 3], [4, 5]]),
            np.zeros(4, np.int32),
            images=4,
            broken=[],
        )
    assert not list(parts.iterdir())
