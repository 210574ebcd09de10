"""The order of training rows: complete, seeded, and resumable at any row."""

import numpy as np
import pytest

from glotok_ray.data.shard_plan import ShardRows, epoch_units, remaining_units, row_order

SHARDS = [ShardRows("a", 7), ShardRows("b", 5), ShardRows("c", 8)]


def rows(units, seed=0):
    sizes = dict(SHARDS)
    found = []
    for unit in units:
        order = row_order(seed, unit.epoch, ShardRows(unit.file, sizes[unit.file]))
        found += [(unit.epoch, unit.file, int(row)) for row in order[unit.start : unit.stop]]
    return found


def test_an_epoch_sees_each_row_once():
    seen = rows(epoch_units(SHARDS, seed=0, epoch=0, num_rows=20))
    assert sorted(seen) == sorted(
        (0, shard.file, row) for shard in SHARDS for row in range(shard.rows)
    )


def test_epochs_and_seeds_give_different_orders():
    orders = {
        tuple(rows(epoch_units(SHARDS, seed=seed, epoch=epoch, num_rows=20), seed))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple((file, row) for _, file, row in order) for order in orders}) == 4


@pytest.mark.parametrize("consumed", range(0, 54))
def test_resuming_at_any_row_continues_the_order(consumed):
    plan = {"seed": 0, "epochs": 3, "rows_per_epoch": 18}
    whole = rows(remaining_units(SHARDS, consumed_rows=0, **plan))
    assert len(whole) == 54
    assert rows(remaining_units(SHARDS, consumed_rows=consumed, **plan)) == whole[consumed:]


def test_too_few_rows_are_named():
    with pytest.raises(ValueError, match="num_rows = 21: the shards hold 20 rows"):
        list(epoch_units(SHARDS, seed=0, epoch=0, num_rows=21))


def test_row_order_is_a_permutation():
    assert np.array_equal(np.sort(row_order(3, 2, SHARDS[2])), np.arange(8))
