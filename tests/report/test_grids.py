"""Grids: the right image in the right place, and classes in order."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glotok_ray.report.grids import by_class, image_grid, side_by_side, write_grid


def test_pictures_keep_their_place_and_their_pixels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(5, 96, 96, 3), dtype=np.uint8)
    write_grid(tmp_path / "grid.png", images, columns=3)
    grid = np.array(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 98 + 2, 3 * 98 + 2, 3)
    np.testing.assert_array_equal(grid[2:98, 2:98], images[0])
    np.testing.assert_array_equal(grid[100:196, 100:196], images[4])


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    images = np.random.default_rng(1).integers(0, 256, size=(1, 32, 32, 3), dtype=np.uint8)
    grid = np.array(image_grid(images, columns=1))
    np.testing.assert_array_equal(grid[2:98:3, 2:98:3], images[0])


def test_labels_take_room_beside_the_pictures() -> None:
    images = np.zeros((2, 96, 96, 3), np.uint8)
    plain = image_grid(images, columns=1)
    labelled = image_grid(images, columns=1, row_labels=["a", "a long name"], title="title")
    assert labelled.width > plain.width
    assert labelled.height > plain.height
    # The dark pixels left of the images are the label.
    assert np.array(labelled)[:, : labelled.width - 98].min() < 100


def test_pairs_are_side_by_side() -> None:
    left, right = np.full((2, 8, 8, 3), 10, np.uint8), np.full((2, 8, 8, 3), 200, np.uint8)
    pairs = side_by_side(left, right)
    assert pairs.shape == (2, 8, 18, 3)
    assert (pairs[:, :, :8] == 10).all()
    assert (pairs[:, :, 10:] == 200).all()


def test_classes_come_in_order_and_are_cut() -> None:
    chosen = by_class([2, 0, 2, 1, 0, 2], per_class=2, most_classes=2)
    assert chosen == {0: [1, 4], 1: [3]}


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        image_grid(np.zeros((1, 4, 4, 3)), columns=1)
    with pytest.raises(ValueError, match="columns"):
        image_grid(np.zeros((1, 4, 4, 3), np.uint8), columns=0)
