"""Blocks of rows: cut anew, and single rows found among them."""

import numpy as np
import pytest

from glotok_ray.metrics.blocks import recut, rows_of

VALUES = np.arange(46).reshape(23, 2)


@pytest.mark.parametrize("edges", [[], [1, 1, 7, 20], [22], list(range(1, 23))])
@pytest.mark.parametrize("rows", [1, 5, 23, 40])
def test_blocks_of_a_fixed_size_hold_the_same_rows(edges: list[int], rows: int) -> None:
    found = list(recut(np.split(VALUES, edges), rows))
    np.testing.assert_array_equal(np.concatenate(found), VALUES)
    assert {len(block) for block in found[:-1]} <= {rows}
    assert 0 < len(found[-1]) <= rows
    assert list(recut([], rows)) == []


@pytest.mark.parametrize("edges", [[], [1, 1, 7, 20]])
def test_rows_are_found_in_the_order_that_was_asked_for(edges: list[int]) -> None:
    places = np.array([22, 0, 7, 6, 7])
    np.testing.assert_array_equal(rows_of(np.split(VALUES, edges), places), VALUES[places])
    assert len(rows_of(np.split(VALUES, edges), places[:0])) == 0
    for wrong in (23, -1):
        with pytest.raises(IndexError, match=f"{wrong}.* of 23"):
            rows_of(np.split(VALUES, edges), np.array([3, wrong]))
