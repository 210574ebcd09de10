"""The data feed at ImageNet's counts with a reader that sleeps: its plan, its rate, its memory over a long run.

    python -m benchmarks.ingest_scale
    python -m benchmarks.ingest_scale --parts rate --tasks 12 --seconds 60

The feed is the training's own (`glotok_ray/on_ray/data.py`), with two workers that do nothing but take micro batches.
"plan" makes the order and the first window of 800 epochs of ImageNet. "rate" lets 1, 4 and 12 reading tasks sleep for
a unit and compares the units that arrive with tasks / sleep. "memory" takes 50,000 micro batches that are made of zeros
and compares what the feed's processes hold with what they held after 5,000.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import ray
import torch

from benchmarks import measured
from glotok_ray.data.shard_plan import Division, PlanUnit, ShardPlan, ShardRows
from glotok_ray.on_ray import cluster
from glotok_ray.on_ray.data import worker_batches
from glotok_ray.on_ray.windows import Feed, start_ingest

IMAGES, ROWS_PER_SHARD, EPOCHS = 1_281_167, 1000, 800
WORKERS = 2
# glotok_16k's batch, as each of 8 workers gets it, on the two workers of this machine.
DIVISION = Division(num_workers=WORKERS, micro_batch_size=30, unit_rows=256)
BATCH = 60


@dataclass(frozen=True)
class SleepingReader:
    """Sleeps for a while, then makes small rows of zeros."""

    seconds: float
    row_bytes: int = 48

    def __call__(self, unit: PlanUnit) -> dict[str, Any]:
        """Rows that keep their positions, as the feed checks."""
        time.sleep(self.seconds)
        rows = len(unit.positions)
        return {
            "image": np.zeros((rows, self.row_bytes), dtype=np.uint8),
            "position": unit.positions,
            "key": [""] * rows,
            "broken": [""] * rows,
        }


def imagenet(batch_size: int) -> ShardPlan:
    """The plan of ImageNet's training set in shards of 1,000 images."""
    counts = [ROWS_PER_SHARD] * (IMAGES // ROWS_PER_SHARD) + [IMAGES % ROWS_PER_SHARD]
    shards = tuple(ShardRows(f"part-{i:05d}.parquet", rows) for i, rows in enumerate(counts))
    return ShardPlan(shards, 0, batch_size, steps_per_epoch=IMAGES // batch_size, open_shards=8)


def plan_case() -> tuple[Any, None]:
    """Seconds for the plan of all epochs and its first window, at the start and in the middle of the run."""

    def run() -> dict[str, float]:
        seconds = {}
        for name, share in (("start", 0.0), ("middle", 0.5)):
            plan = imagenet(240)
            feed = Feed(plan, Division(8, 30, 256), plan.steps_per_epoch * EPOCHS)
            first = int(feed.last_step * share)

            def window(feed: Feed = feed, first: int = first) -> None:
                list(feed.plan.units(first, feed.window_end(first), feed.division))

            seconds[name], _ = measured.seconds_of(window)
        return seconds

    return run, None


class Consumer:
    """A worker that takes micro batches, one step after the other, as training does.

    It is a process of its own, as there: a thread of this one could ask Ray for rows behind its shutdown, which ends
    the process with 1.
    """

    def __init__(self, ingest: Any, feed: Feed, worker: int) -> None:
        self._ingest, self._feed, self._worker, self._taken = ingest, feed, worker, 0

    def run(self) -> None:
        """Take all of them."""
        stream = worker_batches(
            self._ingest, self._feed, worker=self._worker, first_step=0, device=torch.device("cpu")
        )
        for _ in stream:
            self._taken += 1

    def taken(self) -> int:
        """How many it has taken so far."""
        return self._taken


class Consumers:
    """All workers of a feed."""

    def __init__(self, feed: Feed, reader: SleepingReader) -> None:
        self._ingest = start_ingest(feed, reader, {})
        kind: Any = ray.remote(num_cpus=0)(Consumer)
        # One thread to take, one to answer.
        actor = kind.options(max_concurrency=2)
        self._actors = [actor.remote(self._ingest, feed, worker) for worker in range(WORKERS)]
        self._runs: list[Any] = []

    def start(self) -> None:
        """Let all of them begin."""
        self._runs = [actor.run.remote() for actor in self._actors]

    def taken(self) -> int:
        """Micro batches that all have taken; raises what one failed with."""
        ended, _ = ray.wait(self._runs, num_returns=len(self._runs), timeout=0)
        ray.get(ended)
        return sum(ray.get([actor.taken.remote() for actor in self._actors]))

    def wait_until(self, micro_batches: int) -> None:
        """Until all have taken so many in all; raises RuntimeError when none comes for two minutes."""
        last, since = -1, time.monotonic()
        while (taken := self.taken()) < micro_batches:
            if taken != last:
                last, since = taken, time.monotonic()
            if time.monotonic() - since > 120:
                raise RuntimeError(f"no micro batch for two minutes after {last}")
            time.sleep(0.05)


def rate_case(tasks: int, sleep: float, seconds: float, most_units: int) -> dict[str, float]:
    """Units per second that arrive from `tasks` sleeping tasks, several windows long, and the ideal."""
    cluster.connect(logical_cpus=tasks)
    plan = imagenet(BATCH)
    feed = Feed(plan, DIVISION, plan.steps_per_epoch * 150, most_units)
    first_unit = next(feed.plan.units(0, feed.last_step, DIVISION))
    per_unit = len(first_unit.positions) // DIVISION.micro_batch_size
    units = feed.last_step * WORKERS // per_unit
    consumers = Consumers(feed, SleepingReader(sleep))
    consumers.start()
    # Past the start of Ray's worker processes, which comes once per job.
    consumers.wait_until(3 * tasks * per_unit)
    first, started = consumers.taken(), time.monotonic()
    time.sleep(seconds)
    arrived = (consumers.taken() - first) / per_unit
    elapsed = time.monotonic() - started
    return {
        "units_of_the_run": units,
        "units_per_s": arrived / elapsed,
        "ideal_units_per_s": tasks / sleep,
        "windows": arrived / most_units,
    }


def memory_case(micro_batches: int, most_units: int) -> dict[str, float]:
    """MiB that the driver and the feed's actors hold after a tenth of the micro batches, and after all."""
    cluster.connect(logical_cpus=4)
    plan = imagenet(BATCH)
    feed = Feed(plan, DIVISION, plan.steps_per_epoch * 150, most_units)
    consumers = Consumers(feed, SleepingReader(0.0))
    consumers.start()
    held = {}
    for count in (micro_batches // 10, micro_batches):
        consumers.wait_until(count)
        held[count] = _held_mib()
    (early, before), (late, after) = held.items()
    return {"early": early, "late": late, "mib_early": before, "mib_late": after}


def _held_mib() -> float:
    """Private memory of this process, of the feed's and the workers' actors and of Ray's own servers; objects lie in
    shared memory.
    """
    names = ("Consumer", "IngestActor", "SplitCoordinator", "gcs_server", "raylet")
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            # A worker that reads is not of the feed: it comes and goes.
            named = any(name in " ".join(process.cmdline()) for name in names)
            if process.pid == psutil.Process().pid or named:
                info = process.memory_info()
                total += info.rss - info.shared
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def in_subprocess(arguments: list[str]) -> dict[str, float]:
    """One case in a fresh interpreter, which has a Ray of its own."""
    command = [sys.executable, "-m", "benchmarks.ingest_scale", "--case", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmark: a case failed:\n{done.stderr[-3000:]}")
    words = done.stdout.split("CASE ", 1)[1].splitlines()[0].split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def main() -> None:
    """Run the parts and print what they found."""
    arguments = _parser().parse_args()
    if arguments.case:
        kind, *values = arguments.case
        numbers = [float(value) for value in values]
        if kind == "rate":
            found = rate_case(int(numbers[0]), numbers[1], numbers[2], int(numbers[3]))
        else:
            found = memory_case(int(numbers[0]), int(numbers[1]))
        # First, for what Ray still has to say would stand among the figures.
        ray.shutdown()
        sys.stdout.write(
            "\nCASE " + " ".join(f"{name} {value}" for name, value in found.items()) + "\n"
        )
        return
    rows: list[list[str]] = []
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    if "plan" in arguments.parts:
        plan = measured.in_own_process(plan_case, repeats=1)
        figures["plan"] = {**plan.seconds, "peak_mib": plan.resident_mib - plan.idle_mib}
        rows.append(
            [
                f"plan of {EPOCHS} epochs",
                f"{max(plan.seconds.values()):.2f} s",
                "2 s",
                f"{figures['plan']['peak_mib']:.0f} MiB",
            ]
        )
    for tasks in arguments.tasks if "rate" in arguments.parts else ():
        found = in_subprocess(
            [
                "rate",
                str(tasks),
                str(arguments.sleep),
                str(arguments.seconds),
                str(arguments.window),
            ]
        )
        figures[f"rate_{tasks}"] = found
        ratios[f"share of the ideal, {tasks} tasks"] = (
            found["units_per_s"] / found["ideal_units_per_s"]
        )
        rows.append(
            [
                f"{tasks} tasks, {found['units_of_the_run']:,.0f} units",
                f"{found['units_per_s']:.2f} units/s",
                f"{found['ideal_units_per_s']:.2f}",
                "",
            ]
        )
    if "memory" in arguments.parts:
        found = in_subprocess(["memory", str(arguments.micro_batches), str(arguments.window)])
        figures["memory"] = found
        grown = found["mib_late"] - found["mib_early"]
        figures["grown_mib"] = grown
        rows.append(
            [
                f"{found['late']:,.0f} micro batches",
                f"{found['mib_late']:.0f} MiB",
                "",
                f"{grown:+.0f} MiB since {found['early']:,.0f}",
            ]
        )
    measured.answer(
        as_json=arguments.json,
        columns=("part", "here", "ideal or limit", "memory"),
        rows=rows,
        figures=figures,
        ratios=ratios,
    )


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.add_argument(
        "--parts", nargs="+", choices=("plan", "rate", "memory"), default=["plan", "rate", "memory"]
    )
    parser.add_argument(
        "--tasks", type=int, nargs="+", default=[1, 4, 12], help="reading tasks at once"
    )
    parser.add_argument("--sleep", type=float, default=0.5, help="seconds per unit (0.5)")
    parser.add_argument("--seconds", type=float, default=40.0, help="seconds of each rate (40)")
    parser.add_argument("--window", type=int, default=2000, help="units of a window (2000)")
    parser.add_argument("--micro-batches", type=int, default=50_000, help="of the memory part")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
