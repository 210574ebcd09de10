"""Real crops beside samples: the first of each class, from as few shards as hold them."""

from pathlib import Path

import pytest

from glotok_ray.report.real_crops import read_real_crops
from glotok_ray.storage.artefact import ArtefactError
from tests.report.written_run import write_training


def test_the_first_crops_of_the_wanted_classes_come_in_shard_order(tmp_path: Path) -> None:
    write_training(tmp_path, ["a", "b", "c"], each=6)
    found = read_real_crops(tmp_path / "data/train", classes=[0, 2], per_class=4, image_size=16)
    assert found.labels == [0, 2] * 4
    assert found.images.shape == (8, 16, 16, 3)
    assert [int(image[0, 0, 0]) for image in found.images] == found.labels


def test_shards_behind_the_last_crop_are_not_opened(tmp_path: Path) -> None:
    write_training(tmp_path, ["a", "b"], each=6)
    (tmp_path / "data/train/part-1.parquet").write_bytes(b"not a shard")
    folder = tmp_path / "data/train"
    assert len(read_real_crops(folder, classes=[0, 1], per_class=2, image_size=16).labels) == 4
    with pytest.raises(Exception, match=r"(?i)parquet"):
        read_real_crops(folder, classes=[0, 1], per_class=6, image_size=16)


def test_other_sizes_are_cropped_to_the_middle(tmp_path: Path) -> None:
    write_training(tmp_path, ["a"], side=24)
    found = read_real_crops(tmp_path / "data/train", classes=[0], per_class=1, image_size=16)
    assert found.images.shape == (1, 16, 16, 3)


def test_a_folder_without_such_classes_is_refused(tmp_path: Path) -> None:
    write_training(tmp_path, ["a"])
    with pytest.raises(ValueError, match="no image of the classes shown"):
        read_real_crops(tmp_path / "data/train", classes=[7], per_class=1, image_size=16)
    with pytest.raises(ArtefactError, match=r"dataset\.json"):
        read_real_crops(tmp_path, classes=[0], per_class=1, image_size=16)
