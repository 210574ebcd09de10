"""A Ray cluster started by hand, as the README does it, for tests and drills: its own ports, home, token and folder.

It stands beside any other Ray of the machine and is ended through its own process; `ray stop` would end them all.
"""

import contextlib
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class HeadNode:
    """A cluster started by hand, and the environment of a shell that knows its token."""

    folder: Path
    gcs_port: int
    address: str
    environment: dict[str, str]

    def submit(
        self, *command: str, options: Sequence[str] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit` in the repository's root, which ends with the job."""
        return self.job("submit", *options, "--", *command, **environment)

    def job(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`ray job` with the arguments, in the repository's root."""
        verb, *rest = arguments
        return subprocess.run(
            [RAY, "job", verb, "--address", self.address, *rest],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def call(self, *command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """`python -m COMMAND` as a user of this cluster calls it from a folder of their own."""
        joining = {"RAY_ADDRESS": f"127.0.0.1:{self.gcs_port}", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=self.environment | joining,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def list_jobs(self, token: str) -> int:
        """The job server's HTTP status; raises HTTPError."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)
        ) as answer:
            return answer.status


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def started_head_node() -> Iterator[HeadNode]:
    """A token-protected cluster as the README starts one by hand; raises RuntimeError when it does not start."""
    # Ray's sockets live below this folder, and a socket's path has room for 107 characters.
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
            node.list_jobs(token)
            return
        time.sleep(0.5)
    log = (node.folder / "start.log").read_text()[-3000:]
    raise RuntimeError(f"the cluster did not start: {log}")


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
