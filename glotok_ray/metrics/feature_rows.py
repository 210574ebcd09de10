"""Feature vectors that need not fit into memory: arrays, memory maps, or anything that gives rows by their numbers.

Read next: glotok_ray/metrics/kernel_distance.py, glotok_ray/metrics/precision_recall.py
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray


class FeatureRows(Protocol):
    """What metrics ask of stored features; a numpy array or memory map has it all."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    def __getitem__(self, rows: Any, /) -> Shaped[ndarray, "m d"]:
        """The rows of a slice or of an array of row numbers."""
        ...


def check_pair(features: FeatureRows, reference: FeatureRows, *, at_least: int) -> None:
    """Raise ValueError unless both sides are (n, d) of equal width, with n at least `at_least`."""
    for name, rows in (("features", features), ("reference", reference)):
        if len(rows.shape) != 2 or rows.shape[0] < at_least:
            raise ValueError(
                f"{name} has shape {rows.shape}: needs (n, d) with n at least {at_least}"
            )
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"feature widths differ: {features.shape[1]} and {reference.shape[1]}")


def finite(values: Shaped[ndarray, "m d"], dtype: type[np.floating]) -> Shaped[ndarray, "m d"]:
    """The rows in `dtype`; raises ValueError for values that are not finite there."""
    found = np.asarray(values, dtype)
    if not np.isfinite(found).all():
        raise ValueError("features: hold values that are not finite; check the feature network")
    return found


def blocks(
    rows: FeatureRows, size: int, dtype: type[np.floating]
) -> Iterator[tuple[int, Shaped[ndarray, "m d"]]]:
    """The first row's number and the rows of each block of `size`, in order; raises what `finite` raises."""
    for start in range(0, rows.shape[0], size):
        yield start, finite(rows[start : start + size], dtype)
