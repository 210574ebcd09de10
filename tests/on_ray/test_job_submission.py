"""The README's "by hand" commands: a token-protected cluster, a job submitted to it, strangers refused.

The cluster has its own ports, home and temporary folder, so it stands beside any other Ray of the machine, and it is
ended through its own process: `ray stop` would end them all.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class HeadNode:
    """A cluster started by hand, and the environment of a shell that knows its token."""

    folder: Path
    gcs_port: int
    address: str
    environment: dict[str, str]

    def submit(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, which ends with the job."""
        return subprocess.run(
            [RAY, "job", "submit", "--address", self.address, "--", *command],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def head_node() -> Iterator[HeadNode]:
    # Not pytest's tmp_path: Ray's sockets live below this folder, and a socket's path has room for 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="gt_"))
    (folder / "home").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "HOME": str(folder / "home"),
        "PATH": f"{RAY.parent}{os.pathsep}{environment['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ended by SIGTERM, a node that still holds objects would first drain for 30 seconds.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    subprocess.run(
        [RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True
    )
    gcs, dashboard, agent, agent_grpc, environments, metrics, client = _free_ports(7)
    options = {
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "runtime-env-agent-port": environments,
        "metrics-export-port": metrics,
        "ray-client-server-port": client,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": 4,
        "object-store-memory": 200_000_000,
        "temp-dir": folder / "ray",
    }
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with (folder / "start.log").open("w") as log:
        started = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    node = HeadNode(folder, gcs, f"http://127.0.0.1:{dashboard}", environment)
    try:
        _wait_until_it_answers(node, started)
        yield node
    finally:
        _end(started)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(node: HeadNode, started: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and started.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            token = (node.folder / "home" / ".ray" / "auth_token").read_text()
            assert _list_jobs(node, token) == 200
            return
        time.sleep(0.5)
    pytest.fail(f"the cluster did not start: {(node.folder / 'start.log').read_text()[-3000:]}")


def _end(started: subprocess.Popen[bytes]) -> None:
    """End `ray start --block`, which ends its own processes; what is left of exactly those is killed."""
    try:
        family = psutil.Process(started.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    started.send_signal(signal.SIGTERM)
    try:
        started.wait(timeout=30)
    except subprocess.TimeoutExpired:
        started.kill()
    _, left = psutil.wait_procs(family, timeout=10)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _list_jobs(node: HeadNode, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(
        urllib.request.Request(f"{node.address}/api/jobs/", headers=headers)
    ) as answer:
        return answer.status


@pytest.mark.ray
def test_a_submitted_job_runs_on_that_cluster_and_leaves_its_artefact(head_node: HeadNode) -> None:
    output = head_node.folder / "shards"
    done = head_node.submit(
        *("python", "-m", "jobs.shard_images", "quickstart", "--output-path", str(output)),
        *("--crops-per-class", "3", "--validation-crops-per-class", "2"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert f":{head_node.gcs_port}" in said
    assert "succeeded" in said
    train = json.loads((output / "train" / "dataset.json").read_text())
    assert train["num_images"] == 3 * len(train["classes"])
    assert json.loads((output / "train" / "manifest.json").read_text())["kind"] == "shards"


@pytest.mark.ray
def test_without_the_token_nothing_is_submitted_or_listed(head_node: HeadNode) -> None:
    stranger = head_node.folder / "stranger"
    stranger.mkdir()
    for environment, reason in (
        ({"HOME": str(stranger)}, "couldn't find an authentication token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "Invalid authentication token"),
    ):
        refused = head_node.submit("touch", str(stranger / "ran"), **environment)
        assert refused.returncode != 0
        assert reason in refused.stdout + refused.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _list_jobs(head_node, token="")
    assert not (stranger / "ran").exists()
