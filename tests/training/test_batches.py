"""Columns become tensors: writable copies on a CPU, and by pinned memory the same numbers on a GPU."""

import numpy as np
import pytest
import torch

from glotok_ray.training.batches import DeviceFeed


def columns() -> dict[str, object]:
    images = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
    images.setflags(write=False)
    return {
        "image": images[1:4],
        "label": np.array([7, 8, 9]),
        "position": np.arange(3),
        "key": ["a", "b", "c"],
        "broken": ["", "why", ""],
    }


def check(device: str) -> None:
    given = columns()
    made = DeviceFeed(torch.device(device))(given).ready()
    assert made.tensors.keys() == {"image", "label"}
    for name, tensor in made.tensors.items():
        assert tensor.device.type == device
        np.testing.assert_array_equal(tensor.cpu().numpy(), given[name])
        tensor.zero_()
    assert (made.keys, made.broken) == (["a", "b", "c"], ["", "why", ""])
    assert np.asarray(given["image"]).any()


def test_rows_become_tensors_that_may_be_written_to() -> None:
    check("cpu")


@pytest.mark.gpu
def test_rows_reach_a_gpu_by_pinned_memory() -> None:
    check("cuda")
