"""Training rows through Ray Data: the shard plan goes in, equal and ordered blocks for every worker come out.

The order is the plan's own (`glotok_ray/data/shard_plan.py`): blocks of one micro batch are dealt
to the workers in turn, so that a run that resumes at any step sees the rows that the uninterrupted run would have seen.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray.data
import ray.train
import torch
from ray.data import Dataset, ExecutionOptions

from glotok_ray.data.shard_plan import PlanUnit

RowReader = Callable[[PlanUnit], dict[str, np.ndarray]]

# from_items keeps one small block per entry on the driver; more units than this share a block.
_MOST_BLOCKS = 10_000


def training_dataset(
    read_rows: RowReader, units: Sequence[PlanUnit], *, rows_per_block: int
) -> Dataset:
    """The rows of `units` in order, in blocks of exactly `rows_per_block` (the last may be smaller)."""

    def read(batch: Any) -> Any:
        names = PlanUnit._fields
        (values,) = zip(*(batch[name] for name in names), strict=True)
        return read_rows(
            PlanUnit(
                *(value.item() if isinstance(value, np.generic) else value for value in values)
            )
        )

    items = [unit._asdict() for unit in units]
    return (
        ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
        .map_batches(read, batch_size=1, batch_format="numpy", zero_copy_batch=True)
        .repartition(target_num_rows_per_block=rows_per_block, strict=True)
    )


def ordered_data_config() -> ray.train.DataConfig:
    """Split equally and in order: worker r of w gets blocks r, r + w, r + 2w, ..."""
    options = ExecutionOptions(preserve_order=True)
    return ray.train.DataConfig(execution_options=options, enable_shard_locality=False)


def micro_batches(
    shard: ray.data.DataIterator, *, batch_size: int, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """This worker's micro batches as tensors on its device."""
    yield from shard.iter_torch_batches(
        batch_size=batch_size, prefetch_batches=2, device=str(device), drop_last=True
    )
