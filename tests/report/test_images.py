"""Differences of images: grey where there is none, and no wrap-around."""

import numpy as np

from glotok_ray.report.images import ImagePairs, differences


def test_equal_is_grey_and_large_differences_stay_in_range() -> None:
    inputs = np.array([0, 255, 100, 90], np.uint8).reshape(1, 1, 4, 1).repeat(3, axis=3)
    decoded = np.array([255, 0, 100, 100], np.uint8).reshape(1, 1, 4, 1).repeat(3, axis=3)
    found = differences(ImagePairs(inputs, decoded))
    assert found[0, 0, :, 0].tolist() == [255, 0, 128, 138]
    assert found.dtype == np.uint8
