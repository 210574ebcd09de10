"""Plain Ray tasks: units of work without an actor that stays, results in the units' order.

Read next: glotok_ray/on_ray/actor_pool.py
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from glotok_ray import faults
from glotok_ray.on_ray import cluster
from glotok_ray.progress import ProgressLine
from glotok_ray.storage import ownership


def map_tasks(
    function: Callable[[Any], Any], units: Sequence[Any], *, stage: str, sizes: Sequence[int]
) -> Iterator[Any]:
    """Yield `function(unit)` for every unit, in order, each computed by a Ray Data task.

    `sizes` are the images per unit, for the progress line of `stage`. Units, results and the function must pickle.
    Raises FolderLostError, before a result is handed on, when another job has taken over a folder.
    """

    def work(batch: Any) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(function(pickle.loads(batch["unit"][0])))]}

    cluster.connect()
    # Pickled by us, so that Ray Data sees bytes and guesses no column types.
    items = [{"unit": pickle.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        work, batch_size=1, batch_format="numpy"
    )
    del items  # The object store has them.
    dataset.context.execution_options.preserve_order = True
    progress, done = ProgressLine(stage, sum(sizes)), 0
    progress.update(0)
    faults.boundary("unit", 0)
    for number, (row, size) in enumerate(zip(dataset.iter_rows(), sizes, strict=True), start=1):
        ownership.check_held()
        done += size
        progress.update(done)
        yield pickle.loads(row["result"])
        faults.boundary("unit", number)


def run_at_once(function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """`function` of every argument, all tasks at once, a logical CPU each; a cluster must be connected."""
    # Inside a trial of a sweep a task would look for its CPU in the trial's own small share.
    task = ray.remote(function).options(num_cpus=1, scheduling_strategy="DEFAULT")
    return ray.get([task.remote(argument) for argument in arguments])
