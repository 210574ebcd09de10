"""A rank of a Ray Train run, as the trainer sees it.

Read next: glotok_ray/training/worker.py
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch

from glotok_ray.on_ray.gauges import WorkerGauges
from glotok_ray.training.heartbeat import Attempt, Heartbeat, WatchedHeartbeat
from glotok_ray.training.preemption import NodeReclaimed
from glotok_ray.training.worker import DistributedWorker


class RayWorker(DistributedWorker):
    """One rank of a Ray Train run."""

    def __init__(self, folder: Path, attempt: Attempt, stall_minutes: float) -> None:
        super().__init__(_own_device())
        self.heartbeat: Heartbeat = WatchedHeartbeat(
            folder, self.rank, self.world_size, attempt, stall_minutes
        )
        self._gauges = WorkerGauges(folder.name, self.rank)
        # Ray Train may start the workers again within an attempt.
        now = time.time_ns() // 1000 if self.rank == 0 else 0
        self.group = int(self.all_sum(torch.tensor(now, device=self.device)))

    def release(self) -> None:
        """Leave the node: all workers end, and those that are left or come go on."""
        raise NodeReclaimed("the node of a worker is taken back; all state is saved")

    def report(self, metrics: dict[str, Any]) -> None:
        """Hand an evaluation to Ray Train; checkpoints stay in the run folder, under our own manifests."""
        ray.train.report(metrics)

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Set this rank's gauges; its own memory, where the line tells the largest of all ranks."""
        own = {"memory/peak_gib": self.memory.gib()} if "memory/peak_gib" in metrics else {}
        self._gauges.set({**metrics, **own})


def _own_device() -> torch.device:
    """The device that Ray has given this worker, which is the current one of this thread from now on."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # It takes half a second to import, and is of no use without a GPU.
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
