"""A Ray cluster on one machine whose nodes come and go: Ray's fake multi-node provider under its autoscaler v2.

Node types are those of a shipped file of cluster/, scaled down to what this machine holds. The cluster stands beside
any other Ray of the machine, and ends by its own processes. Read next: benchmarks/autoscaling_drill.py
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from glotok_ray.storage import artefact

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
_HEAD_ID = "f" * 51 + "00000"
_NODE_VARIABLE = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
# What the provider calls the head's type.
_HEAD_TYPE = "ray.head.default"
_COMMANDS = (
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "initialization_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
_KEPT = ("min_workers", "max_workers", "labels", "priority")
_STORE_BYTES = 80_000_000


def scaled_down(path: Path, *, most_nodes: int, idle_s: float) -> dict[str, Any]:
    """Ray's autoscaling config with the groups of a `ray up` file: their counts, labels and priorities; every node of
    a GPU group becomes one that holds one worker on a CPU, and CPU groups stay away.
    """
    shipped = yaml.safe_load(path.read_text())
    types = {}
    for name, group in shipped["available_node_types"].items():
        is_trained_on = group["resources"].get("GPU", 0) > 0
        kept = {key: group[key] for key in _KEPT if key in group}
        kept["max_workers"] = min(kept.get("max_workers", 0), most_nodes) if is_trained_on else 0
        resources = {"CPU": int(is_trained_on), "object_store_memory": _STORE_BYTES}
        name = _HEAD_TYPE if name == shipped["head_node_type"] else name
        types[name] = kept | {"resources": resources, "node_config": {}}
    return {
        "cluster_name": shipped["cluster_name"],
        "max_workers": most_nodes,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": shipped["upscaling_speed"],
        "provider": {"type": "external", "module": _PROVIDER, "head_node_id": _HEAD_ID}
        | {"launch_multiple": True},
        "available_node_types": types,
        "head_node_type": _HEAD_TYPE,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        **{name: [] for name in _COMMANDS},
    }


class FakeCloud:
    """The cluster, seen from beside it."""

    def __init__(self, address: str, environment: dict[str, str]) -> None:
        self.address, self.environment = address, environment
        from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

        self._client = GcsClient(address=address)

    def nodes(self) -> dict[str, str]:
        """Group by id of the worker nodes that live."""
        found = self._client.get_all_node_info(timeout=10)
        return {
            node.hex(): facts.node_type_name
            for node, facts in found.items()
            if facts.state == 0 and not facts.is_head_node
        }

    def kill(self, node: str) -> None:
        """SIGKILL to a node's raylet, with which its workers end."""
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet" and process.environ().get(_NODE_VARIABLE) == node:
                    process.kill()
                    return
        raise LookupError(f"no raylet of node {node} on this machine")


@contextlib.contextmanager
def fake_cloud(cluster_file: Path, *, most_nodes: int, idle_s: float) -> Iterator[FakeCloud]:
    """Start the head of a cluster without worker nodes; raises RuntimeError where it does not start."""
    # Ray's sockets live below this folder, and a socket's path has room for 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="gt_"))
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    added = {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    os.environ |= {name: added[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    # Only now: Ray reads the token as it is imported.
    from ray._private.services import get_node_ip_address

    address = f"{get_node_ip_address()}:{port}"
    config = scaled_down(cluster_file, most_nodes=most_nodes, idle_s=idle_s)
    config["provider"]["gcs_address"] = address
    artefact.write_json(folder / "autoscaling.json", config)
    options = {
        "port": port,
        "autoscaling-config": folder / "autoscaling.json",
        "include-dashboard": "false",
        "num-cpus": 0,
        "object-store-memory": _STORE_BYTES,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": folder / "ray",
    }
    own = {"RAY_CLOUD_INSTANCE_ID": _HEAD_ID, _NODE_VARIABLE: _HEAD_ID}
    with (folder / "start.log").open("w") as log:
        started = subprocess.Popen(
            [RAY, "start", "--head", "--block", *(f"--{k}={v}" for k, v in options.items())],
            env=kept | added | own,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _wait_for(address, kept | added, started, folder / "start.log")
    finally:
        _end(started)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(
    address: str, environment: dict[str, str], started: subprocess.Popen[bytes], log: Path
) -> FakeCloud:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and started.poll() is None:
        with contextlib.suppress(Exception):  # Ray raises several unrelated types
            cloud = FakeCloud(address, environment)
            cloud.nodes()
            return cloud
        time.sleep(1)
    raise RuntimeError(f"the cluster did not start: {log.read_text()[-3000:]}")


def _end(started: subprocess.Popen[bytes]) -> None:
    """End the head, and all that its autoscaler has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(timeout=20)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
    if started.poll() is None:
        started.kill()
