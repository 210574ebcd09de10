"""Torch's process group over Ray Train's workers, joined by what runs in the workers alone.

Ray's own TorchConfig does the same and imports torch where it is unpickled: in the controller of every attempt too,
which only starts workers and asks how they are. Read next: glotok_ray/training/worker.py
"""

import logging
import os
from dataclasses import asdict, dataclass
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

logger = logging.getLogger(__name__)

_LEAVE_S = 30.0


@dataclass(kw_only=True)
class ProcessGroupConfig(BackendConfig):
    """A group of all workers of an attempt, which meet at the first one's node."""

    backend: str
    """ "nccl" or "gloo"."""
    timeout_s: int = 1800
    """Seconds after which a collective operation fails; torch's own default."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Who starts and ends the group."""
        return ProcessGroupBackend

    def to_dict(self) -> dict[str, Any]:
        """What Ray may show of it."""
        return asdict(self)


class ProcessGroupBackend(Backend):
    """Joins and leaves the group, called by Ray Train's controller."""

    # As with TorchConfig: NCCL wants to see the GPUs of its neighbours on a node.
    share_cuda_visible_devices: bool = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called when the workers are there, before anything is trained."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(
            _join, address, port, backend=backend_config.backend, timeout_s=backend_config.timeout_s
        )

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Called before the workers end; one that does not answer is waited for half a minute."""
        left = worker_group.execute_async(_leave, whole=len(worker_group) > 1)
        try:
            ray.get(left, timeout=_LEAVE_S)
        except GetTimeoutError:
            logger.warning("the workers have not left their process group in %g s", _LEAVE_S)


def _join(address: str, port: int, *, backend: str, timeout_s: int) -> None:
    """In every worker, at once: none goes on before the last has come."""
    from glotok_ray.training.worker import join_group

    context = ray.train.get_context()
    # DeepSpeed and other libraries look for these, as torchrun sets them.
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    join_group(backend, timeout_s=timeout_s)


def _leave(*, whole: bool) -> None:
    from glotok_ray.training.worker import leave_group

    leave_group(whole=whole)
