"""Which images of a data set give features."""

from pathlib import Path

import numpy as np
import pytest

from glotok_ray.data.drawing import draw_images, draw_stratified, drawn_per_class
from glotok_ray.data.records import read_dataset
from tests.small_data import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("drawing") / "shards")


@pytest.mark.parametrize("stratified", [False, True])
def test_drawn_images_are_spread_over_shards_and_follow_the_seed(
    shards: Path, stratified: bool
) -> None:
    dataset = read_dataset(shards)

    def draw(max_images: int = 20, seed: int = 0):
        return draw_images(
            dataset, shards, max_images=max_images, stratified=stratified, seed=seed, minutes=0
        )

    units = draw()
    assert sum(len(unit.rows) for unit in units) == 20
    assert all(sorted(set(unit.rows)) == unit.rows for unit in units)
    assert units == draw()
    assert units != draw(seed=1)
    everything = draw(max_images=0)
    assert [(unit.shard, len(unit.rows)) for unit in everything] == [
        (shard, shard.rows) for shard in dataset.shards
    ]
    assert drawn_per_class(everything, shards, 3, minutes=0).tolist() == [13, 12, 11]


def test_a_stratified_draw_is_even_as_far_as_classes_have_images() -> None:
    labels = np.repeat([0, 1, 2, 4], [2, 30, 9, 50])
    drawn = draw_stratified(labels, 40, seed=0)
    assert len(set(drawn.tolist())) == 40
    counts = np.bincount(labels[drawn], minlength=5)
    assert (counts[0], counts[2], counts[3]) == (2, 9, 0)
    assert sorted([counts[1], counts[4]]) == [14, 15]
    assert not np.array_equal(drawn, draw_stratified(labels, 40, seed=1))
