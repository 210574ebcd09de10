"""The reading side of training rows through Ray Data: windows of the shard plan, as datasets that all workers share.

Each window is a Ray Dataset of its own, one plan unit per task and block: a pass that keeps its order gives out the
rows of its oldest task alone, and a Dataset's split coordinator keeps metrics of every block for as long as it lives.
Nothing here imports torch, for which the first batch would wait: the actor starts in half the time without.
Read next: glotok_ray/on_ray/data.py
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
import ray.data
from ray.data import ExecutionOptions, ExecutionResources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from glotok_ray.data.shard_plan import Division, PlanUnit, ShardPlan

# Reading processes that are started ahead.
_FIRST_READERS = 4


class RowReader(Protocol):
    """Reads the rows of a unit, arrays and lists by column."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as it is handed on."""
        ...

    def __call__(self, unit: PlanUnit) -> dict[str, Any]:
        """The unit's rows, with "position", "key" and "broken" among the columns."""
        ...


@dataclass(frozen=True)
class Feed:
    """Which rows the workers of a training get, and by which windows; a pure function, known to all of them."""

    plan: ShardPlan
    division: Division
    last_step: int
    most_units: int = 2000
    """Units of a window: the coordinator of so many grows by some 40 MB, and goes with its window."""

    def window_end(self, first_step: int) -> int:
        """The step at which the window that begins with `first_step` ends."""
        return self.plan.window_end(first_step, self.last_step, self.division, self.most_units)


class IngestActor:
    """Opens windows for all workers of one attempt: the first that asks for one has it made."""

    def __init__(self, feed: Feed, read_rows: RowReader, reserved: Mapping[str, float]) -> None:
        """`reserved` are the resources of the training workers, which reading tasks leave alone."""
        self._feed, self._read_rows, self._reserved = feed, read_rows, reserved
        self._windows: dict[int, dict[int, ray.data.DataIterator]] = {}
        self._group = 0

    def window(
        self, first_step: int, worker: int, group: int = 0, division: Division | None = None
    ) -> ray.data.DataIterator:
        """The worker's part of the window that begins with `first_step`; each of a `group` may ask once. With another
        group, which Ray Train started in the place of the one before, the rows may be divided otherwise.
        """
        if group != self._group:
            self._group, self._windows = group, {}
            self._feed = replace(self._feed, division=division or self._feed.division)
        if first_step not in self._windows:
            self._windows[first_step] = dict(enumerate(self._open(first_step)))
        # A window's coordinator ends with the last handle, so none is kept here.
        part = self._windows[first_step].pop(worker)
        if not self._windows[first_step]:
            del self._windows[first_step]
        return part

    def _open(self, first_step: int) -> list[ray.data.DataIterator]:
        feed = self._feed
        end = feed.window_end(first_step)
        units = list(feed.plan.units(first_step, end, feed.division))
        dataset = unit_dataset(self._read_rows, units, reserved=self._reserved)
        # Blocks that follow each other have equal sizes, so "equal" takes no row away.
        return dataset.streaming_split(feed.division.num_workers, equal=True)


def start_ingest(feed: Feed, read_rows: RowReader, reserved: Mapping[str, float]) -> Any:
    """The handle of a new IngestActor on this driver's node; it ends with the last handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(num_cpus=0)(IngestActor)
    _start_readers(read_rows, ray.cluster_resources().get("CPU", 0.0) - reserved.get("CPU", 0.0))
    return actor.options(scheduling_strategy=here).remote(feed, read_rows, dict(reserved))


def _start_readers(read_rows: RowReader, free_cpus: float) -> None:
    """Have the processes of the first reading tasks started, and what they import, while the training workers start;
    later tasks find them waiting.
    """
    # Spread, as Ray Data's own reading tasks: by default a trial's tasks must fit into the trial's placement group.
    task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(_import_readers)
    for _ in range(min(_FIRST_READERS, int(free_cpus))):
        task.remote(read_rows)


def _import_readers(read_rows: RowReader) -> None:
    """Nothing: to be called, it has had this module imported, Ray Data with it, and the reader's."""


def unit_dataset(
    read_rows: RowReader, units: list[PlanUnit], *, reserved: Mapping[str, float]
) -> ray.data.Dataset:
    """The rows of `units` in order, one task and one block per unit."""

    def read(batch: Any) -> Any:
        return read_rows(pickle.loads(batch["unit"][0]))

    # Ray Data's bars would bury our one line.
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    largest = max(len(unit.positions) for unit in units)
    # Pickled by us, so that Ray Data sees bytes and guesses no column types.
    dataset = ray.data.from_items(
        [{"unit": pickle.dumps(unit)} for unit in units], override_num_blocks=len(units)
    ).map_batches(
        read,
        batch_size=1,
        batch_format="numpy",
        zero_copy_batch=True,
        # The rows, their copy as a block, and encoded images beside them.
        memory=3 * largest * read_rows.row_bytes + (64 << 20),
    )
    dataset.context.execution_options = ExecutionOptions(
        preserve_order=True,
        exclude_resources=ExecutionResources(
            cpu=reserved.get("CPU", 0.0) - _waiting_tasks(), gpu=reserved.get("GPU", 0.0)
        ),
    )
    # Half of a block that is cut would go to another worker.
    dataset.context.target_max_block_size = None
    return dataset


def _waiting_tasks() -> int:
    """Tasks that Ray Data may submit beyond the CPUs that are free: one of them starts where another ends, without the
    tenth of a second in which the executor sees the end and submits the next.
    """
    return max(2, int(ray.cluster_resources().get("CPU", 0)) // 4)
