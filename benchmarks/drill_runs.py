"""The ground of the drills: tiny shards, one recipe, trainings called as a user calls them, and what they must leave.

Read next: benchmarks/drill_cases.py
"""

import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from glotok_ray import config, faults
from glotok_ray.config import override
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE
from glotok_ray.recipes import train_tokenizer
from glotok_ray.storage import artefact
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER
from glotok_ray.training.metrics_file import METRICS_FILE
from glotok_ray.training.rows_seen import AUDIT_FOLDER
from glotok_ray.training.stalls import Beat, read_beats

ROOT = Path(__file__).parents[1]
RECIPE = "recipes/tokenizer.json"
SHARDS = "data/train"
RUNS = "runs"
UNDISTURBED = "undisturbed"
WORKERS, STEPS, CHECKPOINT_EVERY = 2, 12, 2
CLASSES, PER_CLASS, ROWS_PER_SHARD, SIDE = 10, 8, 30, 32
# A checkpoint is written while the next steps run, so a crash can cost the steps of two intervals.
MOST_REPEATED = 2 * CHECKPOINT_EVERY
_LONGEST_S = 400.0

# Three epochs of four steps, two passes each on both of two workers; the adversarial game begins in the first.
TINY = {
    "name": UNDISTURBED,
    "output_path": RUNS,
    "teacher_path": "",
    "audit_keys": True,
    "model.autoencoder.image_size": SIDE,
    "model.autoencoder.base_channels": 8,
    "model.autoencoder.channel_multipliers": (1, 2, 2),
    "model.autoencoder.norm_groups": 4,
    "model.autoencoder.latent_channels": 16,
    "model.adapter.num_heads": 2,
    "model.codebooks.0.size": 48,
    "model.codebooks.1.size": 32,
    "model.residual.width": 16,
    "model.residual.num_heads": 2,
    "loss.relation_weight": 0.0,
    "loss.adversarial_start_step": 3,
    "data.train_path": SHARDS,
    "data.validation_path": "",
    "data.num_train_images": CLASSES * PER_CLASS,
    "data.num_validation_images": 0,
    "schedule.global_batch_size": 20,
    "schedule.micro_batch_size": 5,
    "schedule.epochs": 3,
    "schedule.log_every_steps": 1,
    "schedule.checkpoint_every_steps": CHECKPOINT_EVERY,
    "schedule.checkpoints_to_keep": 3,
    "scaling.num_workers": WORKERS,
    "scaling.zero_stage": 2,
}


class DrillFailed(Exception):  # noqa: N818 - what failed is the drill
    """A drill saw what must not be; the text says what."""


class DrillSkipped(Exception):  # noqa: N818 - no error of the drill
    """This machine cannot do the drill; the text says why."""


def require(condition: object, text: str) -> None:
    """Raise DrillFailed with `text` unless the condition holds."""
    if not condition:
        raise DrillFailed(text)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = _LONGEST_S) -> Any:
    """The first true value of `condition`, asked a hundred times a second; raises DrillFailed when time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise DrillFailed(f"{what}: not within {seconds:.0f} s")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stderr: str

    @property
    def last_line(self) -> str:
        """The last line of stderr without its time."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Call:
    """A command that runs in the folder of the ground, in a process group of its own."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path, fault: str) -> None:
        self._log = log
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(fault),
                stdout=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> Ended:
        """Its end; raises DrillFailed, and kills it, when it does not come."""
        try:
            code = self._process.wait(_LONGEST_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DrillFailed(
                f"the command did not end within {_LONGEST_S:.0f} s: {self._log}"
            ) from None
        return Ended(code, self._log.read_text())

    def kill(self) -> None:
        """SIGKILL to the whole process group, and to all that the command has started, its private Ray among it."""
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(family, timeout=20)


def _environment(fault: str) -> dict[str, str]:
    """That of a user's shell: no cluster, no storage root, and this package at hand."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "GLOTOK_"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | ({faults.VARIABLE: fault} if fault else {})


@dataclass(frozen=True)
class Run:
    """A run folder of the ground."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.folder / CHECKPOINT_FOLDER

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of its metrics.jsonl."""
        path = self.folder / METRICS_FILE
        return [*_json_lines(path)] if path.is_file() else []

    def restarts(self) -> list[dict[str, Any]]:
        """The lines that tell of restarts."""
        return [line for line in self.lines() if "event" in line]

    def step(self) -> int:
        """Steps that are logged."""
        logged = [line["step"] for line in self.lines() if "train/total" in line]
        return max(logged, default=0)

    def curve(self) -> dict[int, dict[str, float]]:
        """Every training figure of every step; raises DrillFailed for a step that is logged twice."""
        found: dict[int, dict[str, float]] = {}
        for line in self.lines():
            figures = {name: value for name, value in line.items() if name.startswith("train/")}
            if figures:
                require(line["step"] not in found, f"step {line['step']} is logged twice")
                found[line["step"]] = figures
        return found

    def audit(self, rank: int) -> list[tuple[int, list[str]]]:
        """Steps and keys that a rank saw, in the order of time."""
        path = self.folder / AUDIT_FOLDER / f"rank-{rank:04d}.jsonl"
        return [(line["step"], line["keys"]) for line in _json_lines(path)]

    def warnings(self) -> str:
        """What its ranks warned of."""
        logs = sorted((self.folder / "logs").glob("rank-*.txt"))
        return "".join(path.read_text() for path in logs)

    def committed(self, step: int) -> bool:
        """Whether the checkpoint of a step is in its place."""
        return (self.checkpoints / f"step-{step:09d}").is_dir()

    def beats(self) -> list[Beat]:
        """The ranks' heartbeats."""
        return read_beats(self.folder)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(text)


@dataclass(frozen=True)
class Told:
    """A restart that metrics.jsonl must tell of."""

    cause: str
    """Regular expression."""
    resumed: tuple[int, ...]
    """Steps at which it may go on; writing in the background leaves two where a kill hits training."""


class Ground:
    """A folder with tiny shards, a recipe and the undisturbed run that all others are compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls: list[Call] = []
        artefact.write_json(
            folder / RECIPE, config.to_dict(override(train_tokenizer.quickstart(), dict(TINY)))
        )

    def prepare(self) -> None:
        """Make the shards and the undisturbed run."""
        self.make_shards()
        self._finish(self.start(UNDISTURBED))
        run = self.run(UNDISTURBED)
        require(sorted(run.curve()) == list(range(1, STEPS + 1)), "the undisturbed run has gaps")
        require(not run.restarts(), "the undisturbed run was restarted")

    def make_shards(self) -> None:
        """Shard the photographs at hand."""
        flags = {
            "output-path": "data",
            "image-size": SIDE,
            "crops-per-class": PER_CLASS,
            "validation-crops-per-class": 2,
            "rows-per-shard": ROWS_PER_SHARD,
        }
        shard = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        self._finish(self._call("shards", ["jobs.shard_images", "quickstart", *shard], ""))

    def run(self, name: str, output: str = RUNS) -> Run:
        """A run's folder."""
        return Run(self.folder / output / name)

    def start(self, name: str, *flags: str, fault: str = "") -> Call:
        """Start the training `name`."""
        command = ["jobs.train_tokenizer", RECIPE, "--name", name, *flags]
        return self._call(name, command, fault)

    def end(self) -> None:
        """Kill what still runs."""
        for call in self._calls:
            if call.running:
                call.kill()

    def finish(self, name: str, *flags: str, fault: str = "") -> Ended:
        """Run the training `name` to its end; raises DrillFailed when it fails."""
        return self._finish(self.start(name, *flags, fault=fault))

    def fail(self, call: Call, code: int, pattern: str) -> Ended:
        """Wait for a command that must end with `code` and one line in which `pattern` is found."""
        ended = call.wait()
        said = f"exit code {ended.code}, last line: {ended.last_line}"
        require(ended.code == code, f"exit code {code} expected; {said}")
        require(re.search(pattern, ended.last_line), f"{pattern!r} expected; {said}")
        require("train_tokenizer: " in ended.last_line, f"the last line is not the job's; {said}")
        require("Traceback" not in ended.stderr, "a traceback on stderr")
        return ended

    def _call(self, name: str, command: Sequence[str], fault: str) -> Call:
        log = self.folder / "calls" / f"{len(self._calls):02d}-{name}.txt"
        call = Call([sys.executable, "-m", *command], self.folder, log, fault)
        self._calls.append(call)
        return call

    def _finish(self, call: Call) -> Ended:
        ended = call.wait()
        require(ended.code == 0, f"exit code {ended.code}: {ended.last_line}")
        return ended

    def compare(self, run: Run, told: Sequence[Told] = (), resumed: Sequence[int] = ()) -> int:
        """Steps that `run` did twice; raises DrillFailed unless it ended as the undisturbed run did.

        Every figure of every step and the weights are compared bitwise, the keys of each rank step by step. The run
        must have begun again where metrics.jsonl tells of the restarts `told`, or at the steps `resumed`.
        """
        reference = self.run(UNDISTURBED)
        ours, theirs = run.curve(), reference.curve()
        different = [step for step in theirs if ours.get(step) != theirs[step]]
        require(not different and len(ours) == len(theirs), f"other figures at steps {different}")
        weights = [(each.folder / WEIGHTS_FILE).read_bytes() for each in (run, reference)]
        require(weights[0] == weights[1], f"{WEIGHTS_FILE} has other bytes")
        restarts = run.restarts()
        causes = [line["cause"] for line in restarts]
        require(len(restarts) == len(told), f"{len(told)} restarts expected; told: {causes}")
        for line, expected in zip(restarts, told, strict=True):
            cause, at = line["cause"], line["resumed_step"]
            require(re.search(expected.cause, cause), f"{expected.cause!r} expected: {cause}")
            require(at in expected.resumed, f"resumed at {at}, not at one of {expected.resumed}")
        return self.compare_keys(run, resumed or [line["resumed_step"] for line in restarts])

    def compare_keys(self, run: Run, resumed: Sequence[int] = ()) -> int:
        """Steps that came again on some rank; raises DrillFailed for keys that a rank missed or that are others, and
        for steps that came again though the run did not begin again there, or too many of them.
        """
        return max(self._compare_keys(run, rank, resumed) for rank in range(WORKERS))

    def _compare_keys(self, run: Run, rank: int, resumed: Sequence[int]) -> int:
        expected = dict(self.run(UNDISTURBED).audit(rank))
        seen = run.audit(rank)
        for step, keys in seen:
            require(keys == expected[step], f"rank {rank} saw other keys at step {step}")
        times = collections.Counter(step for step, _ in seen)
        missed = sorted(set(expected) - set(times))
        require(not missed, f"rank {rank} never saw the keys of steps {missed}")
        starts, before = iter(resumed), -1
        for step, _ in seen:
            if step != before + 1:
                # Starts that ended before a step was done leave no trace here.
                begun = any(start == step for start in starts)
                require(
                    begun, f"rank {rank} saw step {step} after {before}: no start is told there"
                )
                repeated = before - step + 1
                require(
                    repeated <= MOST_REPEATED, f"rank {rank} repeated {repeated} steps at {step}"
                )
            before = step
        return sum(count - 1 for count in times.values())
