"""Loaders of training images compared: ours, torch's DataLoader, webdataset and mosaicml-streaming, on two cores.

    python -m benchmarks.ingest
    python -m benchmarks.ingest --rounds 2 --only trainer folders --folder runs/ingest_images

All give random crops of 256 pixels of the same 2,560 JPEGs of 500 x 375, exactly ADM's or by the fast way, read from
the page cache. Each loader has a process of its own; they take turns in rounds. The first batch is timed apart, the
rate is that of 24 batches behind the first eight. "bare" decodes from memory in two threads: the bound. The last lines
are the peak memory of the trainer's way on a third of the images and on all.

webdataset is in the extra `benchmarks`. mosaicml-streaming asks for a numpy below 2.2, which this package cannot have;
`pip install --no-deps --target DIR mosaicml-streaming xxhash catalogue circuitbreaker python-snappy cramjam zstd brotli
transformers huggingface_hub tokenizers regex boto3 botocore s3transfer jmespath python-dateutil` and PYTHONPATH=DIR
bring it. A loader that is not installed says so in its row.
"""

import collections
import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import measured
from benchmarks.ingest_data import ROWS_PER_SHARD, make_images
from benchmarks.ingest_loaders import (
    BATCH,
    CASES,
    CORES,
    LOADERS,
    Case,
    batches,
    is_installed,
    trainer_batches,
)

# Units of 256 rows are four batches, which arrive together: whole units are skipped and timed.
SKIPPED, TIMED = 8, 24
COPIES = 10
_REST_S = 1.0


class Turn(NamedTuple):
    """One turn of a loader."""

    first_s: float
    """Seconds to the first batch."""
    images_per_s: float


def take_turn(case: Case, folder: Path, skipped: int, timed: int) -> Turn:
    """Seconds to the first batch, and the rate of `timed` batches behind `skipped` more."""
    started = time.perf_counter()
    stream = batches(case, folder)
    next(stream)
    first = time.perf_counter() - started
    for _ in range(skipped):
        next(stream)
    begun = time.perf_counter()
    for _ in range(timed):
        next(stream)
    seconds = time.perf_counter() - begun
    del stream
    # What it still has on its way must not run in the next one's turn.
    time.sleep(_REST_S)
    return Turn(first, timed * BATCH / seconds)


class Player:
    """A process that takes the turns of one loader."""

    def __init__(self, loader: str, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, loader, folder))
        self._process.start()
        other.close()
        self._receive(loader)

    def turn(self, case: Case, *numbers: int) -> Turn:
        """A turn of `case`, while the others wait."""
        self._pipe.send((case, *numbers))
        return self._receive(case.name)

    def _receive(self, name: str) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit(f"benchmark: {name} ended; its error is above") from None

    def end(self) -> None:
        """Let the process end."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join(30)


def _serve(pipe: Any, loader: str, folder: Path) -> None:
    torch.set_num_threads(1)
    prepare = LOADERS[loader].prepare
    if prepare:
        prepare()
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        case, *numbers = asked
        pipe.send(take_turn(case, folder, *numbers))


def play(cases: list[Case], folder: Path, rounds: int, timed: int) -> dict[Case, list[Turn]]:
    """All turns; odd rounds go backwards."""
    turns: dict[Case, list[Turn]] = {case: [] for case in cases}
    with contextlib.ExitStack() as stack:
        players: dict[str, Player] = {}
        for name in dict.fromkeys(case.loader for case in cases):
            players[name] = Player(name, folder)
            stack.callback(players[name].end)
        for number in range(rounds):
            for case in cases[:: 1 if number % 2 == 0 else -1]:
                turns[case].append(players[case.loader].turn(case, min(SKIPPED, timed), timed))
    return turns


def memory_case(folder: str, num_shards: int) -> tuple[Any, None]:
    """The trainer's way over a data set of so many shards."""

    def run() -> dict[str, float]:
        stream = trainer_batches(Path(folder) / "shards", "fast", num_shards)
        seconds, _ = measured.seconds_of(lambda: collections.deque(stream, maxlen=0))
        return {"all": seconds}

    return run, None


def _row(case: Case, turns: list[Turn], bound: float | None) -> list[str]:
    if not turns:
        return [case.name, "not installed", "", "", ""]
    rates = [turn.images_per_s for turn in turns]
    low, middle, high = _quartiles(rates)
    return [
        case.name,
        f"{middle:.0f}",
        f"{low:.0f} - {high:.0f}",
        f"{middle / bound:.2f}" if bound else "",
        f"{statistics.median(turn.first_s for turn in turns):.2f}",
    ]


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _ratios(rates: dict[Case, float]) -> dict[str, float]:
    """What the issue asks for."""
    pairs = {
        "trainer's threads / DataLoader, both exact": (("trainer", "exact"), ("folders", "exact")),
        "trainer's threads / DataLoader, both fast": (("trainer", "fast"), ("folders", "fast")),
        "trainer's threads / bare loop, exact": (("trainer", "exact"), ("bare", "exact")),
        "trainer's threads / bare loop, fast": (("trainer", "fast"), ("bare", "fast")),
        "trainer's threads fast / DataLoader exact": (("trainer", "fast"), ("folders", "exact")),
        "trainer's threads fast, resized once / DataLoader exact": (
            ("trainer", "fast", "resized"),
            ("folders", "exact"),
        ),
        "Ray Data fast / DataLoader exact": (("ray", "fast"), ("folders", "exact")),
    }
    found = {name: (Case(*one), Case(*other)) for name, (one, other) in pairs.items()}
    return {
        name: rates[one] / rates[other]
        for name, (one, other) in found.items()
        if one in rates and other in rates
    }


def main() -> None:
    """Compare the loaders and print the table."""
    parser = measured.parser(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--timed", type=int, default=TIMED, help="batches; a multiple of four")
    parser.add_argument("--only", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument(
        "--folder", type=Path, help="where the images stay; else they are made anew"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks of memory")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_images(folder, COPIES)
        cases = [case for case in CASES if case.loader in options.only]
        turns = play(
            [case for case in cases if is_installed(case)], folder, options.rounds, options.timed
        )
        peaks = {} if options.no_memory else _peaks(folder)
    rates = {
        case: statistics.median(turn.images_per_s for turn in found)
        for case, found in turns.items()
    }
    bounds = {(case.decoding, case.form): rates[case] for case in rates if case.loader == "bare"}
    measured.answer(
        as_json=options.json,
        columns=["loader", "images/s", "quartiles", "of the bound", "first batch s"],
        rows=[
            _row(case, turns.get(case, []), bounds.get((case.decoding, case.form)))
            for case in cases
        ],
        figures={case.name: [turn._asdict() for turn in found] for case, found in turns.items()}
        | peaks,
        ratios=_ratios(rates) | peaks,
    )


def _peaks(folder: Path) -> dict[str, float]:
    found = {}
    for num_shards in (COPIES // 3, COPIES):
        case = measured.in_own_process(
            memory_case, str(folder), num_shards, repeats=1, warm_up=False
        )
        name = f"peak MiB of the trainer's threads, {num_shards * ROWS_PER_SHARD} images"
        found[name] = case.peak_mib
    return found


if __name__ == "__main__":
    main()
