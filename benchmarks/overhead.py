"""A step under Ray Train, DeepSpeed and our trainer, against a plain torch loop with the same model and batch.

    python -m benchmarks.overhead            # about five minutes on two idle cores
    python -m benchmarks.overhead --workers 1 --rounds 3 --json

A smaller FAR learns random codes, in fp32 on CPUs: by `jobs.train_generator` as users call it, its log written at every
step, and by a loop of a page (benchmarks/plain_loop.py) with the same AdamW and clipping and, for two workers,
DistributedDataParallel over gloo. Both are alive all the time and take turns: the processes of the other side
stand still (SIGSTOP). A step lasts from its end to the next one's, so that all that comes between steps counts; the
step in which a turn begins does not. On a machine that others load, look at the CPU time, of the driver and Ray's own
processes too. Before the turns, both sides trace a few steps, which tell the parts of a step on rank 0. ZeRO stage 0
divides the work as the loop does; other stages (--zero-stage) divide the optimizer's state, and copy every gradient and
weight once more.
"""

import argparse
import contextlib
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

from benchmarks import measured, overhead_parts
from benchmarks.full_size import (
    SMALL_TRUNK,
    Job,
    metric_lines,
    tokenizer_config,
    write_codes,
    write_tokenizer,
)
from benchmarks.overhead_parts import kind_of, parts_of_step
from benchmarks.plain_loop import Plain
from glotok_ray.config import FARRun, override
from glotok_ray.recipes import train_generator as generators
from glotok_ray.training.metrics_file import METRICS_FILE
from glotok_ray.training.profiling import PROFILE_FOLDER, TRACE_FILE
from glotok_ray.training.step_times import WARMUP_STEPS

_SMALLER = {"model.width": 256, "model.depth": 6, "model.head_depth": 2, "model.num_heads": 4}
_TRACED_STEPS = 4
# The last of them comes after the traces are written.
_WARM_UP_STEPS = WARMUP_STEPS + _TRACED_STEPS + 2
_LONGEST_WAIT_S = 300.0
_PAUSE_S = 0.05
# Between two looks whether a side still runs. The look goes through all processes of the machine, and takes its time
# from the side that is measured.
_LOOK_S = 5.0


class Side(Protocol):
    """One of the two ways, running or standing still."""

    def steps(self) -> list[float]:
        """Seconds of all steps so far."""
        ...

    def processes(self) -> dict[psutil.Process, str]:
        """All that belong to it, and of which kind each is (`overhead_parts.KINDS`)."""
        ...


class Trained:
    """The job of the package, with all that Ray starts for it."""

    def __init__(self, command: list[str], folder: Path, batch: int) -> None:
        folder.mkdir()
        self._run, self._batch = folder / "run", batch
        self.trace = self._run / PROFILE_FOLDER / TRACE_FILE
        self._size, self._steps = 0, list[float]()
        self._job = Job(command, folder, default_malloc=True)
        self._job.start()

    def steps(self) -> list[float]:
        """By the log, whose rate counts from one line to the next; read when it has grown."""
        path = self._run / METRICS_FILE
        size = path.stat().st_size if path.is_file() else 0
        if size != self._size:
            self._size = size
            self._steps = [
                self._batch / line["time/images_per_s"]
                for line in metric_lines(self._run)
                if "time/images_per_s" in line
            ]
        return self._steps

    def processes(self) -> dict[psutil.Process, str]:
        """The driver, Ray's own and the workers."""
        driver, *others = self._job.processes()
        found = {driver: kind_of([], is_driver=True)}
        for process in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process] = kind_of(process.cmdline(), is_driver=False)
        return found

    def end(self) -> None:
        """Kill them all."""
        self._job.kill()


class Compared(NamedTuple):
    """Seconds per step of both ways, per turn, and CPU seconds of their processes per step and kind."""

    trained: list[list[float]]
    plain: list[list[float]]
    trained_cpu: list[dict[str, float]]
    plain_cpu: list[dict[str, float]]
    trained_parts: dict[str, float]
    """Seconds of the parts of a step on rank 0, traced before the turns."""
    plain_parts: dict[str, float]

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
        ours, theirs = (
            statistics.median(sum(turn.values()) for turn in turns)
            for turns in (self.trained_cpu, self.plain_cpu)
        )
        return ours / theirs - 1


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
        plain = Plain(recipe, folder / "plain", workers, threads, _TRACED_STEPS)
        _wait(plain, _WARM_UP_STEPS)
        _send(plain, signal.SIGSTOP)
        found = Compared([], [], [], [], parts_of_step(trained.trace), parts_of_step(plain.trace))
        for number in range(arguments.rounds):
            turns = [
                (trained, found.trained, found.trained_cpu),
                (plain, found.plain, found.plain_cpu),
            ]
            # What heats or loads the machine slowly must not meet the same side first each time.
            for side, seconds, cpu in turns if number % 2 else reversed(turns):
                before = overhead_parts.cpu_seconds(side.processes())
                seconds.append(_turn(side, arguments.steps))
                after = overhead_parts.cpu_seconds(side.processes())
                # With the step that stood still.
                steps = arguments.steps + 1
                cpu.append(overhead_parts.spent_between(before, after, steps))
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


def _wait(side: Side, count: int) -> None:
    deadline, look = time.monotonic() + _LONGEST_WAIT_S, time.monotonic() + _LOOK_S
    while len(side.steps()) < count:
        if time.monotonic() > look:
            side.processes()
            look = time.monotonic() + _LOOK_S
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
        "schedule.profile-steps": _TRACED_STEPS,
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
    if not arguments.json:
        for workers, compared in found.items():
            sys.stdout.write(overhead_parts.where_it_goes(workers, *compared[2:]) + "\n")
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
    parser.add_argument("--batch", type=int, default=8, help="images per step, all workers (8)")
    parser.add_argument("--threads", type=int, default=0, help="per worker (all cores)")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=0)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (5)")
    parser.add_argument("--steps", type=int, default=4, help="steps per turn (4)")
    parser.add_argument("--folder", help="where the temporary folder is made; the system's own")
    return parser


if __name__ == "__main__":
    main()
