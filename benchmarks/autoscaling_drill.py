"""Drill of a cluster that grows and shrinks: nodes come for a training, one is killed, one is taken back, all go.

    python -m benchmarks.autoscaling_drill
    python -m benchmarks.autoscaling_drill --only kill

Ray's autoscaler v2 starts and ends real nodes on this machine; their types are those of cluster/aws.yaml, scaled down.
The taken back node learns it from a loopback copy of Google's metadata endpoint, by the agent that the shipped files
start. Exit code 0 when all went well. Read next: benchmarks/fake_cloud.py
"""

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks import measured
from benchmarks.drill_runs import RECIPE, ROOT, DrillFailed, Ground, Run, require, wait_until
from benchmarks.fake_cloud import FakeCloud, fake_cloud

logger = logging.getLogger(__name__)

CLUSTER_FILE = ROOT / "cluster" / "aws.yaml"
WORKERS, IDLE_S = 2, 10.0
NAME = "autoscaled"
EVENTS = ("kill", "notice")
# A training must outlast the coming and going of nodes, about 20 s each, meanwhile by one worker at 6 steps a second
# and more. Between two events it also grows again.
STEPS = 400
CHECKPOINT_EVERY = 3
_END_S = 300.0


class Story:
    """What happened when, told as it happens."""

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud, self._start = cloud, time.monotonic()
        self.rows: list[tuple[float, str, int]] = []

    def tell(self, what: str) -> None:
        """Note an event with its second and the nodes of that moment."""
        row = (round(time.monotonic() - self._start, 1), what, len(self._cloud.nodes()))
        self.rows.append(row)
        logger.info("%6.1f s, %d nodes: %s", row[0], row[2], what)


def drill(folder: Path, events: Sequence[str]) -> tuple[Story, Run]:
    """Everything in turn; raises DrillFailed for what must not be."""
    ground = Ground(folder)
    ground.make_shards()
    run = ground.run(NAME)
    # Nodes get it from the head.
    os.environ["GLOTOK_PREEMPTION_NOTICE"] = str(folder / "notice.json")
    with fake_cloud(CLUSTER_FILE, most_nodes=WORKERS, idle_s=IDLE_S) as cloud:
        story = Story(cloud)
        require(not cloud.nodes(), "there are worker nodes before anything asks for them")
        story.tell("the head is up")
        with _training(folder, cloud) as training:
            _wait(training, lambda: len(cloud.nodes()) == WORKERS, "worker nodes")
            story.tell(f"a training asks for {WORKERS} nodes, and the autoscaler has started them")
            for number, event in enumerate(events):
                if number:
                    _wait(training, lambda: _workers(run) == WORKERS, f"{WORKERS} workers again")
                    story.tell(f"the training has {WORKERS} workers again, at step {run.step()}")
                _wait(training, _steps_more(run), "steps")
                story.tell(f"step {run.step()} is done")
                told = len(run.restarts())
                _lose(event, cloud, story, training)
                _wait(training, lambda told=told: len(run.restarts()) > told, "a restart")
                restart = run.restarts()[-1]
                story.tell(
                    f"training goes on at step {restart['resumed_step']}: {restart['cause']}"
                )
            require(_code(training) == 0, f"the training failed: {folder / 'training.txt'}")
        story.tell(f"the training is done, step {run.step()}")
        wait_until(lambda: not cloud.nodes(), "the end of idle nodes", 120)
        story.tell("the autoscaler has ended the idle nodes")
    require(sorted(run.curve()) == list(range(1, STEPS + 1)), "steps are missing")
    require(len(run.restarts()) >= len(events), "a restart is not told")
    return story, run


def _steps_more(run: Run) -> Callable[[], bool]:
    before = run.step()
    return lambda: run.step() >= before + 2 * CHECKPOINT_EVERY


def _workers(run: Run) -> int:
    """How many workers train, by the last line in which their first rank has told it."""
    told = re.findall(r"(\d+) workers train", run.warnings())
    return int(told[-1]) if told else 0


def _code(training: "subprocess.Popen[bytes]") -> int | None:
    """The exit code of a training that comes to its end; None of one that does not."""
    try:
        return training.wait(_END_S)
    except subprocess.TimeoutExpired:
        return None


def _wait(training: "subprocess.Popen[bytes]", condition: Any, what: str) -> None:
    def holds() -> bool:
        require(training.poll() is None, f"the training ended before there were {what}")
        time.sleep(0.2)
        return bool(condition())

    wait_until(holds, what, 240)


def _lose(event: str, cloud: FakeCloud, story: Story, training: "subprocess.Popen[bytes]") -> None:
    """Take one node away, and wait until another stands in its place."""
    before = cloud.nodes()
    node = sorted(before)[-1]
    if event == "kill":
        cloud.kill(node)
        story.tell("a node is killed")
    else:
        with _metadata("TRUE") as url:
            _run_agent(cloud, node, url)
        story.tell("a node is taken back: its workers are told, and Ray drains it")
        with contextlib.suppress(DrillFailed):
            wait_until(lambda: time.sleep(0.2) or node not in cloud.nodes(), "its end", 40)
        if node in cloud.nodes():
            cloud.kill(node)
            story.tell("its time is up, and it is killed")
    _wait(training, lambda: node not in cloud.nodes(), "the end of the node")
    story.tell("the node is gone")
    _wait(training, lambda: set(cloud.nodes()) - set(before), "a node in its place")
    story.tell("another node has come")


def _run_agent(cloud: FakeCloud, node: str, url: str) -> None:
    """The agent as the shipped files start it, told the metadata's address and, as all nodes share one, its node."""
    flags = ["--cloud", "gcp", "--metadata", url, "--ray-address", cloud.address, "--node-id", node]
    ended = subprocess.run(
        [sys.executable, "-m", "glotok_ray.on_ray.preemption_agent", *flags],
        env=cloud.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    require(ended.returncode == 0, f"the agent failed: {ended.stderr[-500:]}")


@contextlib.contextmanager
def _metadata(answer: str) -> Iterator[str]:
    """A loopback service that answers as Google's metadata endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/computeMetadata/v1/instance/preempted"
            known = known and self.headers.get("Metadata-Flavor") == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(answer.encode() if known else b"")

        def log_message(self, *_: Any) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{service.server_address[1]}"
    finally:
        service.shutdown()
        service.server_close()


@contextlib.contextmanager
def _training(folder: Path, cloud: FakeCloud) -> Iterator["subprocess.Popen[bytes]"]:
    """The training, by the job that a user runs, on two workers or, while a node is missing, one."""
    flags = {
        "name": NAME,
        "schedule.epochs": STEPS // 4,
        "schedule.checkpoint-every-steps": CHECKPOINT_EVERY,
        "schedule.checkpoint-every-epochs": STEPS,
        # The drill is of nodes, not of the quickstart's one restart.
        "scaling.max-failures": 5,
        "scaling.min-workers": 1,
        "scaling.num-workers": WORKERS,
        "scaling.cpus-per-worker": 1,
        "scaling.decode-on": "trainer",
    }
    command = [sys.executable, "-m", "jobs.train_tokenizer", RECIPE]
    command += [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    joining = {"RAY_ADDRESS": cloud.address}
    with (folder / "training.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=cloud.environment | joining, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            process.kill()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drill and print; returns the exit code."""
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=EVENTS, help="one event instead of both")
    parser.add_argument("--folder", help="an empty folder that stays; else a temporary one")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    events = (arguments.only,) if arguments.only else EVENTS
    with contextlib.ExitStack() as stack:
        folder = Path(
            arguments.folder
            or stack.enter_context(tempfile.TemporaryDirectory(prefix="autoscaling_"))
        ).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            story, run = drill(folder, events)
        except DrillFailed as error:
            logger.error("autoscaling_drill: %s", error)
            return 1
        restarts = [(line["cause"], line["resumed_step"]) for line in run.restarts()]
        measured.answer(
            as_json=arguments.json,
            columns=("second", "worker nodes", "what happened"),
            rows=[[f"{second:.0f}", str(nodes), what] for second, what, nodes in story.rows],
            figures={"story": story.rows, "restarts": restarts},
            ratios={},
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
