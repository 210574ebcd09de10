"""Joining a Ray cluster: the one a submitted job runs in, the one RAY_ADDRESS names, or a private local one.

A private cluster listens on loopback only and ends with the process; it has a dashboard for sweeps alone.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.data import DataContext

logger = logging.getLogger(__name__)


def connect(logical_cpus: int = 0, *, state_api: bool = False) -> None:
    """Connect once; later calls return at once. Called when input is known to be good and work is to be done.

    A private cluster gets `logical_cpus` (0: twice the cores, at least 4), because Ray Train reserves whole CPUs for
    its workers and Ray Data needs some beside them. With `state_api` it gets Ray's dashboard, which answers it; of a
    cluster that is there already `glotok_ray.on_ray.preflight.check_state_api` tells.
    """
    _silence()
    if ray.is_initialized():
        return
    before = signal.getsignal(signal.SIGTERM)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True, logging_level=logging.WARNING)
        _keep_handler(before)
        logger.info("joined the Ray cluster at %s: %s", os.environ["RAY_ADDRESS"], _resources())
        return
    cores = os.cpu_count() or 1
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's server remembers this many tasks, about 1 KB each; a week of reading has millions.
    os.environ.setdefault("RAY_task_events_max_num_task_in_gcs", "10000")
    # Ray would give all else on the machine, its own daemons too, precedence over its workers (15). That guards the
    # head of a large cluster; with the few actors here it only makes workers that meet at every step wait.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",
        num_cpus=logical_cpus or max(4, 2 * cores),
        include_dashboard=state_api,
        dashboard_host="127.0.0.1",
        dashboard_port=_free_port(),
        _node_ip_address="127.0.0.1",
        # What workers print stays in Ray's session folder: errors are raised here, progress is ours to show.
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    _keep_handler(before)
    logger.info("started a private Ray cluster on this machine: %s", _resources())


def private_node_ended() -> bool:
    """Whether the one node of this process's private cluster has ended, so that no call is answered any more.

    SLURM, systemd and `timeout` signal all processes of a group or a unit, Ray's among them; its raylet obeys.
    """
    node: Any = ray._private.worker._global_node  # type: ignore[attr-defined]
    raylets = node.all_processes.get(PROCESS_TYPE_RAYLET, []) if node is not None else []
    return any(raylet.process.poll() is not None for raylet in raylets)


def num_cpus() -> float:
    """Logical CPUs of all nodes that are there now."""
    return ray.cluster_resources().get("CPU", 0.0)


def has(resources: Mapping[str, float]) -> bool:
    """Whether all nodes together have these logical resources, used or not."""
    there = ray.cluster_resources()
    return all(there.get(name, 0.0) >= amount for name, amount in resources.items())


def _keep_handler(before: Any) -> None:
    """Keep the handler of SIGTERM that was there, or Ray's in Python, and not the one of Ray's C++ side: that dumps
    addresses and, three seconds later, aborts the process, in the middle of what ends workers and gives folders back.
    """
    if threading.current_thread() is threading.main_thread():
        rays = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before if callable(before) else rays)


def _silence() -> None:
    # Ray Data's bars and Ray Train's banners would bury our one line per stage.
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # They announce the error of a worker, which is raised, told in one line and written to a file by us.
    for name in ("exceptions", "_internal.execution.streaming_executor_state"):
        logging.getLogger(f"ray.data.{name}").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")


def _free_port() -> int:
    """A port for the dashboard that no other cluster of this machine has.

    At Ray's default one without a dashboard takes another cluster's for its own, which knows none of its actors: it
    would end trainings as those of dead drivers.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _resources() -> str:
    found = ray.cluster_resources()
    return f"{found.get('CPU', 0):.0f} logical CPUs, {found.get('GPU', 0):.0f} GPUs"
