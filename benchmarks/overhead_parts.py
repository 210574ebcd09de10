"""Where the steps of `benchmarks.overhead` go: parts of a step by its trace, CPU time by kinds of processes."""

import contextlib
import gzip
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from glotok_ray.training.profiling import PARTS

STEP = "train step"
"""How the range of a whole step is called in a trace; its number may follow."""
ALL_REDUCE = "all-reduce"
"""From its start to its end, with the wait for the other worker: within the backward pass, or at its end."""
OTHER = "other"
WORKERS, DRIVER, CONTROLLER = "workers", "driver", "controller"
ACTORS, DAEMONS = "Ray's other actors", "Ray's daemons"
KINDS: tuple[str, ...] = (WORKERS, DRIVER, CONTROLLER, ACTORS, DAEMONS)
"""Kinds of processes; a plain loop has workers alone."""


def parts_of_step(trace: Path) -> dict[str, float]:
    """Mean seconds of each part of a step on the traced rank, of all-reduces, and of what is in no part."""
    with gzip.open(trace, "rt") as stream:
        events = [event for event in json.load(stream)["traceEvents"] if event.get("ph") == "X"]
    # Kineto notes a range once for the host and, where there is a GPU, once more for the device.
    ranges = [event for event in events if event.get("cat") == "user_annotation"]
    steps = [event for event in ranges if event["name"].startswith(STEP)]
    if not steps:
        raise SystemExit(f"overhead: {trace} holds no step")
    first = min(event["ts"] for event in steps)
    last = max(event["ts"] + event["dur"] for event in steps)
    inside = [event for event in ranges if first <= event["ts"] <= last]

    def seconds(found: list[dict[str, Any]]) -> float:
        return sum(event["dur"] for event in found) / len(steps) / 1e6

    parts = {name: seconds([event for event in inside if event["name"] == name]) for name in PARTS}
    parts[OTHER] = max(0.0, seconds(steps) - sum(parts.values()))
    parts[ALL_REDUCE] = seconds([event for event in inside if "all_reduce" in event["name"]])
    return parts


def kind_of(command: list[str], *, is_driver: bool) -> str:
    """The kind of a process of a training, by its command line."""
    if is_driver:
        return DRIVER
    title = command[0] if command else ""
    if "TrainWorker" in title:
        return WORKERS
    if "TrainController" in title:
        return CONTROLLER
    return ACTORS if title.startswith("ray::") else DAEMONS


def cpu_seconds(processes: Mapping[psutil.Process, str]) -> dict[int, tuple[str, float]]:
    """Kind and CPU seconds so far of each process that lives, by its id."""
    found = {}
    for process, kind in processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = (kind, times.user + times.system)
    return found


def spent_between(
    before: Mapping[int, tuple[str, float]], after: Mapping[int, tuple[str, float]], steps: int
) -> dict[str, float]:
    """CPU seconds per step by kind; a process that was not there before began at 0, one that ended is left out."""
    found = dict.fromkeys(KINDS, 0.0)
    for pid, (kind, seconds) in after.items():
        found[kind] += (seconds - before.get(pid, (kind, 0.0))[1]) / steps
    return found


def where_it_goes(
    workers: int,
    trained_cpu: Sequence[Mapping[str, float]],
    plain_cpu: Sequence[Mapping[str, float]],
    trained_parts: Mapping[str, float],
    plain_parts: Mapping[str, float],
) -> str:
    """A table of both sides' parts and kinds, in milliseconds per step."""
    rows = [(name, ours, plain_parts[name]) for name, ours in trained_parts.items()]
    for kind in KINDS:
        ours, theirs = (
            statistics.median(turn[kind] for turn in turns) for turns in (trained_cpu, plain_cpu)
        )
        rows.append((f"CPU of {kind}", ours, theirs))
    title = f"{workers} worker{'s' * (workers > 1)}, ms per step"
    lines = [f"{title:26}{'ours':>9}{'plain':>9}"]
    lines += [f"{name:26}{1e3 * ours:9.1f}{1e3 * plain:9.1f}" for name, ours, plain in rows]
    return "\n".join(lines) + "\n"
