"""The order of training rows: complete, seeded, mixed over shards, resumable at any step, the same for any workers."""

import hashlib
import itertools

import numpy as np
import pytest

from glotok_ray.data.shard_plan import (
    CHUNK_ROWS,
    Division,
    ShardPlan,
    ShardRows,
    epoch_order,
    group_batches,
)

SHARDS = (ShardRows("a", 70), ShardRows("b", 51), ShardRows("c", 83), ShardRows("d", 1))
EPOCH_STEPS = 17


def plan(seed: int = 0, batch: int = 12, open_shards: int = 2) -> ShardPlan:
    return ShardPlan(SHARDS, seed, batch, EPOCH_STEPS, open_shards)


def rows_of(unit):
    """(epoch, file, row) of a unit's rows, in its order."""
    found = [None] * len(unit.positions)
    for part in unit.parts:
        for row, place in zip(part.rows.tolist(), part.places.tolist(), strict=True):
            found[place] = (unit.epoch, part.shard.file, row)
    return found


def order_of(plan, first, last, division):
    """The rows of steps [first, last) by their place in the order of the run, put together from all units."""
    found = {}
    for unit in plan.units(first, last, division):
        found |= dict(zip(unit.positions.tolist(), rows_of(unit), strict=True))
    return [found[position] for position in sorted(found)]


WHOLE = order_of(plan(), 0, 3 * EPOCH_STEPS, Division(1, 12, 10**6))


def test_an_epoch_sees_each_row_at_most_once_and_all_but_less_than_a_batch():
    for epoch in range(3):
        seen = [row for row in WHOLE if row[0] == epoch]
        assert len(seen) == len(set(seen)) == EPOCH_STEPS * 12
    order = epoch_order(SHARDS, seed=0, epoch=0, batch_size=12, open_shards=2)
    assert sorted(zip(order.shard.tolist(), order.row.tolist(), strict=True)) == [
        (index, row) for index, shard in enumerate(SHARDS) for row in range(shard.rows)
    ]


def test_the_order_is_that_of_runs_that_have_begun():
    """A run goes on with the rows that it has not seen only where no version draws another order."""
    order = epoch_order(SHARDS, seed=0, epoch=1, batch_size=12, open_shards=2)
    digest = hashlib.sha256(np.stack(order).tobytes()).hexdigest()
    assert digest == "16df19bcd6f352f49e78512dfe69ebb3cdc956e897d334dbad108ea6d07f8485"


def test_epochs_and_seeds_give_different_orders():
    orders = {
        tuple(
            np.concatenate(
                epoch_order(SHARDS, seed=seed, epoch=epoch, batch_size=12, open_shards=2)
            ).tolist()
        )
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("first", range(3 * EPOCH_STEPS))
def test_resuming_at_any_step_continues_the_order(first):
    division = Division(2, 3, 24)
    assert order_of(plan(), first, 3 * EPOCH_STEPS, division) == WHOLE[12 * first :]


@pytest.mark.parametrize(
    "division",
    [
        Division(workers, micro, rows)
        for workers in (1, 2, 3, 4, 6, 12)
        for micro in (1, 2, 3)
        for rows in (1, 4, 24, 10**6)
        if 12 // workers % micro == 0
    ],
)
def test_the_order_is_the_same_for_any_division(division):
    units = list(plan().units(0, 3 * EPOCH_STEPS, division))
    assert order_of(plan(), 0, 3 * EPOCH_STEPS, division) == WHOLE
    for number in range(0, len(units), division.num_workers):
        turn = units[number : number + division.num_workers]
        # Dealt in turn, equal sizes reach the worker that they are meant for.
        assert len({len(unit.positions) for unit in turn}) == 1
    share = 12 // division.num_workers
    for number, unit in enumerate(units):
        worker = number % division.num_workers
        assert set((unit.positions % 12 // share).tolist()) == {worker}
        assert len(unit.positions) % division.micro_batch_size == 0
        assert len(unit.positions) <= max(division.unit_rows, division.micro_batch_size)


@pytest.mark.parametrize("division", [Division(2, 3, 24), Division(3, 2, 2), Division(1, 4, 100)])
def test_a_worker_s_micro_batches_are_its_units_cut(division):
    for worker in range(division.num_workers):
        every = plan().units(5, 40, division)
        units = [*itertools.islice(every, worker, None, division.num_workers)]
        own = plan().units(5, 40, division, worker)
        assert [rows_of(unit) for unit in own] == [rows_of(unit) for unit in units]
        cut = [
            part
            for unit in units
            for part in unit.positions.reshape(-1, division.micro_batch_size).tolist()
        ]
        expected = plan().micro_batch_positions(5, 40, division, worker)
        assert [positions.tolist() for positions in expected] == cut
        # In the order of steps.
        assert [part[0] // 12 for part in cut] == sorted(part[0] // 12 for part in cut)


def test_windows_join_up_and_hold_no_more_units_than_allowed():
    division, last = Division(2, 3, 24), 3 * EPOCH_STEPS
    start, found = 1, []
    while start < last:
        end = plan().window_end(start, last, division, most_units=7)
        units = list(plan().units(start, end, division))
        assert start < end <= last
        assert len(units) <= 7
        found += units
        start = end
    whole = list(plan().units(1, last, division))
    assert [unit.positions.tolist() for unit in found] == [
        unit.positions.tolist() for unit in whole
    ]


IMAGENET = tuple(ShardRows(f"part-{number}", 1000) for number in range(200))


@pytest.mark.parametrize(("batch", "open_shards"), [(240, 8), (16, 8), (2048, 8), (256, 16)])
def test_every_batch_draws_from_all_open_shards(batch, open_shards):
    order = epoch_order(IMAGENET, seed=0, epoch=0, batch_size=batch, open_shards=open_shards)
    steps = len(order.shard) // batch
    drawn = [
        len(np.unique(order.shard[step * batch : (step + 1) * batch])) for step in range(steps)
    ]
    # The last group of an epoch is smaller than the others.
    whole = drawn[: steps - group_batches(batch, open_shards)]
    assert min(whole) >= min(open_shards, batch)
    # Few are open at once: the next one of a lane begins when the one before it ends.
    assert np.mean(whole) < 3 * open_shards


def test_a_unit_reads_little_more_than_its_rows():
    plan = ShardPlan(IMAGENET, 0, 240, 833, 8)
    for unit in itertools.islice(plan.units(0, 400, Division(8, 30, 256)), 200):
        chunks = sum(len(np.unique(part.rows // CHUNK_ROWS)) for part in unit.parts)
        assert chunks * CHUNK_ROWS <= 1.5 * len(unit.positions)


def test_rows_of_a_chunk_meet_others_in_every_epoch():
    def neighbours(epoch):
        order = epoch_order(IMAGENET, seed=0, epoch=epoch, batch_size=240, open_shards=8)
        keys = (order.shard.astype(int) * 1000 + order.row)[: 833 * 240].reshape(833, 240)
        (step,) = np.nonzero((keys == 5).any(axis=1))[0]
        return set(keys[step].tolist()) - {5}

    first, second = neighbours(0), neighbours(1)
    # Chance of staying together: a few rows of the own chunk alone.
    assert len(first & second) < CHUNK_ROWS


def test_too_few_rows_are_named():
    with pytest.raises(ValueError, match="18 steps of 12 rows: the shards hold 205 rows; lower"):
        ShardPlan(SHARDS, 0, 12, 18, 2)
