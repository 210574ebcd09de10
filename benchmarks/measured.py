"""What all benchmarks share: a case in a process of its own, facts on the machine, a table or one JSON object."""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch


@dataclass
class Measured:
    """One case: medians of repeated runs, and what it needed beyond its start."""

    seconds: dict[str, float]
    """Named parts of a run; each a median."""
    peak_mib: float
    """Largest resident memory during the runs, minus that before them."""
    facts: dict[str, float]
    """What the case returned about itself."""
    idle_mib: float
    """Resident memory after the imports, before the case was built."""
    resident_mib: float
    """Largest resident memory during the runs."""

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


def in_own_process(
    case: Callable[..., Any], *arguments: Any, repeats: int = 3, warm_up: bool = True
) -> Measured:
    """Run `case(*arguments)` in a fresh process; it returns (run, facts).

    `run()` returns seconds by name and is called once to warm up, unless that is off, then `repeats` times.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, case, arguments, repeats, warm_up))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(
            f"benchmark: a case ended with exit code {process.exitcode}; its error is above"
        ) from None
    process.join()
    return answer


def _serve(
    sender: Any,
    case: Callable[..., Any],
    arguments: Sequence[Any],
    repeats: int,
    warm_up: bool,
) -> None:
    idle = psutil.Process().memory_info().rss
    run, facts = case(*arguments)
    if warm_up:
        run()
    before = psutil.Process().memory_info().rss
    with _PeakMemory() as memory:
        parts = [run() for _ in range(repeats)]
    seconds = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    mib = [value / 2**20 for value in (memory.peak - before, idle, memory.peak)]
    found = facts() if facts else {}
    sender.send(Measured(seconds, mib[0], facts=found, idle_mib=mib[1], resident_mib=mib[2]))


class _PeakMemory:
    """Samples this process's resident memory every millisecond."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.001):
            self.peak = max(self.peak, process.memory_info().rss)

    def __enter__(self) -> "_PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, psutil.Process().memory_info().rss)


def seconds_of(action: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds and the result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "logical_cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_1min": os.getloadavg()[0],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with --json."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print one JSON object and no table")
    return made


def answer(
    *,
    as_json: bool,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: dict[str, Any],
    ratios: dict[str, float],
) -> None:
    """Print the table and the ratios, or with `as_json` one object: figures, ratios, machine."""
    out = sys.stdout
    if as_json:
        facts = {"figures": figures, "ratios": ratios, "machine": machine()}
        out.write(json.dumps(facts, indent=2) + "\n")
        return
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.write("  ".join(cells).rstrip() + "\n")
    out.write("\n")
    for name, value in ratios.items():
        out.write(f"{name}: {value:.3g}\n")
    facts = machine()
    out.write(f"\n{facts['processor']}, {facts['torch_threads']} threads, torch {facts['torch']}\n")
