"""A step under Ray Train, DeepSpeed and our trainer, against a plain torch loop with the same model and batch.

    python -m benchmarks.overhead            # about five minutes on two idle cores
    python -m benchmarks.overhead --workers 1 --rounds 3 --json

A smaller FAR learns random codes, in fp32 on CPUs: by `jobs.train_generator` as users call it, its log written at every
step, and by a loop of twenty lines with AdamW and, for two workers, DistributedDataParallel. Both are alive all the
time and take turns: the processes of the other side stand still (SIGSTOP). A step lasts from its end to the next one's,
so that all that comes between steps counts; the step in which a turn begins does not. On a machine that others load,
look at the CPU time, of the driver and Ray's own processes too.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from benchmarks import measured
from benchmarks.full_size import (
    SMALL_TRUNK,
    Job,
    metric_lines,
    tokenizer_config,
    write_codes,
    write_tokenizer,
)
from benchmarks.plain_loop import Plain
from glotok_ray.config import FARRun, override
from glotok_ray.recipes import train_generator as generators

_SMALLER = {"model.width": 256, "model.depth": 6, "model.head_depth": 2, "model.num_heads": 4}
_WARM_UP_STEPS = 6
_LONGEST_WAIT_S = 300.0
_PAUSE_S = 0.05


class Side(Protocol):
    """One of the two ways, running or standing still."""

    def steps(self) -> list[float]:
        """Seconds of all steps so far."""
        ...

    def processes(self) -> list[psutil.Process]:
        """All that belong to it."""
        ...


class Trained:
    """The job of the package, with all that Ray starts for it."""

    def __init__(self, command: list[str], folder: Path, batch: int) -> None:
        folder.mkdir()
        self._run, self._batch = folder / "run", batch
        self._job = Job(command, folder, default_malloc=True)
        self._job.start()

    def steps(self) -> list[float]:
        """By the log, whose rate counts from one line to the next."""
        return [
            self._batch / line["time/images_per_s"]
            for line in metric_lines(self._run)
            if "time/images_per_s" in line
        ]

    def processes(self) -> list[psutil.Process]:
        """The driver, Ray's own and the workers."""
        return self._job.processes()

    def end(self) -> None:
        """Kill them all."""
        self._job.kill()


class Compared(NamedTuple):
    """Seconds per step of both ways, per turn, and CPU seconds of all their processes per step."""

    trained: list[list[float]]
    plain: list[list[float]]
    trained_cpu: list[float]
    plain_cpu: list[float]

    @property
    def overhead(self) -> float:
        """Share by which our median exceeds the other: the median over the rounds of turns that follow each other."""
        pairs = zip(self.trained, self.plain, strict=True)
        return (
            statistics.median(
                statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs
            )
            - 1
        )

    @property
    def cpu_overhead(self) -> float:
        """The same of CPU time, which other work on the machine disturbs less."""
        return statistics.median(self.trained_cpu) / statistics.median(self.plain_cpu) - 1


def compare(arguments: argparse.Namespace, folder: Path, recipe: FARRun, workers: int) -> Compared:
    """Let both ways take turns."""
    threads = arguments.threads or max(1, (os.cpu_count() or 1) // workers)
    folder.mkdir()
    command = _command(arguments, folder.parent, folder / "ours", workers, threads)
    trained = Trained(command, folder / "ours", recipe.schedule.global_batch_size)
    plain = None
    try:
        _wait(trained, _WARM_UP_STEPS)
        _send(trained, signal.SIGSTOP)
        plain = Plain(recipe, folder / "plain", workers, threads)
        _wait(plain, _WARM_UP_STEPS)
        _send(plain, signal.SIGSTOP)
        found = Compared([], [], [], [])
        for number in range(arguments.rounds):
            turns = [
                (trained, found.trained, found.trained_cpu),
                (plain, found.plain, found.plain_cpu),
            ]
            # What heats or loads the machine slowly must not meet the same side first each time.
            for side, seconds, cpu in turns if number % 2 else reversed(turns):
                before = _cpu_seconds(side)
                seconds.append(_turn(side, arguments.steps))
                # With the step that stood still.
                cpu.append((_cpu_seconds(side) - before) / (arguments.steps + 1))
        return found
    finally:
        trained.end()
        if plain is not None:
            plain.end()


def _turn(side: Side, count: int) -> list[float]:
    """The next `count` whole steps of a side that stands still, which then stands still again."""
    first = len(side.steps()) + 1
    _send(side, signal.SIGCONT)
    _wait(side, first + count)
    _send(side, signal.SIGSTOP)
    return side.steps()[first : first + count]


def _cpu_seconds(side: Side) -> float:
    total = 0.0
    for process in side.processes():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _wait(side: Side, count: int) -> None:
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while len(side.steps()) < count:
        side.processes()
        if time.monotonic() > deadline:
            raise SystemExit(f"overhead: {type(side).__name__} has not come to step {count}")
        time.sleep(_PAUSE_S)


def _send(side: Side, number: int) -> None:
    for process in side.processes():
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:  # a task of Ray's that has ended
            continue


def _command(
    arguments: argparse.Namespace, inputs: Path, folder: Path, workers: int, threads: int
) -> list[str]:
    settings: dict[str, Any] = {
        "name": "run",
        "output-path": folder,
        "tokenizer-path": inputs / "tokenizer",
        "data.train-path": inputs / "codes",
        "data.views": "center",
        "data.num-train-images": 0,
        **{name.replace("_", "-"): value for name, value in _SMALLER.items()},
        "schedule.global-batch-size": arguments.batch,
        "schedule.micro-batch-size": arguments.batch // workers,
        "schedule.epochs": 10_000,
        "schedule.checkpoint-every-epochs": 10_000,
        "schedule.checkpoint-every-minutes": 0,
        "schedule.log-every-steps": 1,
        "scaling.num-workers": workers,
        "scaling.cpus-per-worker": threads,
        "scaling.threads-per-worker": threads,
        "scaling.zero-stage": arguments.zero_stage,
        "scaling.precision": "fp32",
        "scaling.max-failures": 0,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    start = [sys.executable, "-m", "jobs.train_generator", "far_b"]
    return [*start, *options, "--scaling.no-use-gpu"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    # So that nothing outlives a benchmark that is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = _parser().parse_args(argv)
    recipe = generators.far_b()
    changes = {**_SMALLER, "schedule.global_batch_size": arguments.batch}
    recipe = override(recipe, {**changes, "scaling.num_workers": 1})
    found: dict[int, Compared] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        tokenizer = override(tokenizer_config(recipe), SMALL_TRUNK)
        write_tokenizer(folder / "tokenizer", tokenizer)
        write_codes(folder / "codes", folder / "tokenizer", tokenizer, 64 * arguments.batch)
        for workers in arguments.workers:
            found[workers] = compare(arguments, folder / f"{workers}-workers", recipe, workers)
    _answer(arguments, found)


def _answer(arguments: argparse.Namespace, found: dict[int, Compared]) -> None:
    rows, figures, ratios = [], {}, {}
    for workers, compared in found.items():
        seconds, plain = _median(compared.trained), _median(compared.plain)
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        rows.append([str(workers), f"{seconds:.3f}", f"{plain:.3f}", f"{compared.overhead:+.1%}"])
        rows[-1].append(f"{compared.cpu_overhead:+.1%}")
        figures[name] = {
            "seconds_per_step": seconds,
            "plain_seconds_per_step": plain,
            **compared._asdict(),
        }
        ratios[f"step, ours / plain, {name}"] = 1 + compared.overhead
        ratios[f"CPU time of a step, ours / plain, {name}"] = 1 + compared.cpu_overhead
    measured.answer(
        as_json=arguments.json,
        columns=("workers", "s / step, ours", "s / step, plain", "overhead", "in CPU time"),
        rows=rows,
        figures=figures,
        ratios=ratios,
    )


def _median(turns: list[list[float]]) -> float:
    return statistics.median(seconds for turn in turns for seconds in turn)


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2), help="(1 2)")
    parser.add_argument("--batch", type=int, default=4, help="images per step, all workers (4)")
    parser.add_argument("--threads", type=int, default=0, help="per worker (all cores)")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=2)
    parser.add_argument("--rounds", type=int, default=6, help="turns of each side (6)")
    parser.add_argument("--steps", type=int, default=4, help="steps per turn (4)")
    parser.add_argument("--folder", help="where the temporary folder is made; the system's own")
    return parser


if __name__ == "__main__":
    main()
