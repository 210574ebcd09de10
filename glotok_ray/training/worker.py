"""The seam between the training loop and whatever started the process: rank, device, sums, barriers.

`LocalWorker` is one plain process; `glotok_ray.on_ray.ray_worker.RayWorker` is one rank of a Ray Train run.
This is the only module that names torch.distributed. Read next: glotok_ray/training/engine.py
"""

import atexit
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor

from glotok_ray.config.training import ScalingConfig
from glotok_ray.training.data_facts import DataFacts
from glotok_ray.training.heartbeat import Heartbeat
from glotok_ray.training.peak_memory import PeakMemory


class Worker(Protocol):
    """What the trainer may know of the world."""

    rank: int
    world_size: int
    device: torch.device
    memory: PeakMemory
    heartbeat: Heartbeat
    data_facts: DataFacts

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all workers, on every worker."""
        ...

    def barrier(self) -> None:
        """Wait until every worker has come here."""
        ...

    def report(self, metrics: dict[str, Any]) -> None:
        """Tell the launcher about an evaluation or checkpoint; every worker must call it equally often."""
        ...

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Show a line of the log, by its names in metrics.jsonl, to whoever watches; it waits for nothing."""
        ...

    def release(self) -> None:
        """A node is taken back, and everything is saved: end, where another start goes on; every worker calls it."""
        ...


class LocalWorker:
    """The only worker of a plain process; it remembers its reports."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.rank = 0
        self.world_size = 1
        self.device = torch.device(device)
        self.memory = PeakMemory(self.device)
        self.heartbeat = Heartbeat()
        self.data_facts = DataFacts()
        self.reports: list[dict[str, Any]] = []

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The identity: there is nobody else."""
        return tensor

    def barrier(self) -> None:
        """Return at once."""

    def report(self, metrics: dict[str, Any]) -> None:
        """Keep the metrics in `reports`."""
        self.reports.append(metrics)

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Nobody watches."""

    def release(self) -> None:
        """Go on: nobody starts a plain process again."""


class DistributedWorker:
    """One rank of an initialised torch.distributed process group; launchers subclass it to report."""

    def __init__(self, device: torch.device) -> None:
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self.device = device
        # From here on: a worker is made before its model.
        self.memory = PeakMemory(device)
        self.heartbeat = Heartbeat()
        self.data_facts = DataFacts()

    def all_sum(self, tensor: Tensor) -> Tensor:
        """All-reduce a copy, so that the caller's tensor stays as it was."""
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    def barrier(self) -> None:
        """Wait for every rank."""
        torch.distributed.barrier()

    def report(self, metrics: dict[str, Any]) -> None:
        """Nobody listens; launchers override this."""

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Nobody watches; launchers override this."""

    def release(self) -> None:
        """Go on; launchers override this."""


def join_group(backend: str, *, timeout_s: int) -> None:
    """Make this process a rank of a group, whose place and size stand in torch's environment variables (MASTER_ADDR,
    MASTER_PORT, RANK, WORLD_SIZE); returns when all have come. A collective operation that takes longer fails.
    """
    if backend == "nccl" and "TORCH_NCCL_BLOCKING_WAIT" not in os.environ:
        # A collective that times out ends its process; otherwise the GPU would wait for ever.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    torch.distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))


def leave_group(*, whole: bool) -> None:
    """Give back the device's cached memory and, where the `whole` group ends, this process's part of it."""
    if whole and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_OF_ONE_RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def only_worker(scaling: ScalingConfig) -> Worker:
    """The worker of a training in this process. DeepSpeed gets a process group of one rank, which stays as long as the
    process: DeepSpeed goes on to use the first that it has seen.
    """
    device = torch.device("cuda", 0) if scaling.use_gpu else torch.device("cpu")
    if scaling.use_gpu:
        torch.cuda.set_device(device)
    if scaling.engine == "torch":
        return LocalWorker(device)
    if not torch.distributed.is_initialized():
        os.environ.update(_OF_ONE_RANK)
        torch.distributed.init_process_group(
            "nccl" if scaling.use_gpu else "gloo",
            store=torch.distributed.HashStore(),  # pyright: ignore[reportPrivateImportUsage]
            rank=0,
            world_size=1,
        )
        atexit.register(torch.distributed.destroy_process_group)
    return DistributedWorker(device)
