"""What no CPU can show, on one GPU in under six minutes: kernels, steps, memory, waits, NCCL, Adam and overlap.

    python -m benchmarks.gpu_check
    python -m benchmarks.gpu_check --json --output gpu.json
    python -m benchmarks.gpu_check --sections relation,tokenizer
    python -m benchmarks.gpu_check --device cpu --tiny     # runs the same code, and shows nothing about speed

It needs the repository and its environment alone: no data, no network, no compiler but a C compiler for Triton. What
would have to be downloaded, VGG16 in LPIPS and the models themselves, has random weights, which cost the same. Without
a GPU it says so in one line, or with --json in an object without figures, and ends with 0.

- relation: the Triton kernels against fp64, two runs bit by bit, and their time beside the bare matrix products.
- group_norm: the Triton kernels' error beside torch's against fp64, two runs bit by bit, and their time beside torch's.
- tokenizer: glotok_16k's step by the training's own step and DeepSpeed's engine of one rank, 30 images in
  bf16_autocast: images/s, memory against --dry-run, and the share of each part.
- adam: torch's fused Adam under DeepSpeed at ZeRO 0 to 3 against torch's plain one, saved, resumed, with an empty PATH.
- host_waits: how often the host waits for the GPU in a step, by whose code asked for it, with 1 and 4 micro batches.
- xar_b, xar_h: a step of the largest batch that should fit, MFU, memory, and sampling with 50 steps per cell.
- collectives: an NCCL process group of one, through the worker of a training.
- overlap: steps on JPEG files that are decoded and moved meanwhile, against steps on images that are there.
- compile: the tokenizer's step by torch.compile, which takes minutes to begin; it is last and may be cut.

Each section runs in a process of its own under a limit of its own; one that fails or is late is a row with its reason.
Results go to stderr as they are found, to --output after every section, and to stdout at the end.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import measured
from benchmarks.gpu_place import RATIO, Place, Row
from benchmarks.gpu_sections import SECTIONS, Told, serve

_BUDGET_S = 360.0
# Imports take seconds on an idle machine.
_START_LIMIT_S = 90.0
# With less than this left, a section is not begun.
_LEAST_S = 5.0


@dataclass
class Outcome:
    """What became of one section."""

    status: str = "late"
    """"ok", "left out", "failed" or "late"."""
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def as_figures(self) -> dict[str, Any]:
        """For the JSON object."""
        rows = {
            row.measure: {"value": row.value, "unit": row.unit, "note": row.note}
            for row in self.rows
        }
        return {"status": self.status, "reason": self.reason, "seconds": self.seconds, "rows": rows}


class Child:
    """A process that has imported everything and waits for the name of its section."""

    def __init__(self, context: Any, place: Place) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, place), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, name: str, limit_s: float) -> Outcome:
        """The section's rows, at most `limit_s` after it began."""
        outcome = Outcome()
        try:
            if not self._connection.poll(_START_LIMIT_S):
                outcome.reason = f"its process was not ready after {_START_LIMIT_S:.0f} s"
                return outcome
            self._connection.recv()
            self._connection.send(name)
            start = time.monotonic()
            self._follow(name, outcome, start + limit_s)
            outcome.seconds = time.monotonic() - start
        except (EOFError, OSError):
            self._process.join(5)
            outcome.status = "failed"
            outcome.reason = f"its process ended with exit code {self._process.exitcode}"
        finally:
            self.end()
        return outcome

    def _follow(self, name: str, outcome: Outcome, end: float) -> None:
        while self._connection.poll(max(0.0, end - time.monotonic())):
            told = self._connection.recv()
            if isinstance(told, Told):
                outcome.status, outcome.reason = told.status, told.reason
                return
            outcome.rows.append(told)
            _say(f"  {name}: {_text(told)}")
        outcome.reason = "ended at its limit"

    def end(self) -> None:
        """Whatever it does."""
        with suppress(OSError):
            self._connection.close()
        self._process.kill()
        self._process.join()


def check(names: Sequence[str], place: Place, options: argparse.Namespace) -> dict[str, Outcome]:
    """Run the sections one after another within the budget; the next process imports while one runs."""
    end = time.monotonic() + options.budget_s
    # A forked process may not use CUDA; on a CPU it saves the imports.
    context = multiprocessing.get_context("spawn" if place.on_gpu else "forkserver")
    if not place.on_gpu:
        context.set_forkserver_preload(["deepspeed", "benchmarks.gpu_sections"])
    outcomes: dict[str, Outcome] = {}
    spare = Child(context, place)
    try:
        for position, name in enumerate(names):
            child, left = spare, end - time.monotonic()
            if left < _LEAST_S:
                outcomes[name] = Outcome(
                    "left out", f"the budget of {options.budget_s:.0f} s is spent"
                )
                continue
            if position < len(names) - 1:
                spare = Child(context, place)
            _say(f"{name} ...")
            outcomes[name] = child.run(name, min(left, SECTIONS[name].limit_s))
            _say(f"{name}: {_ending(outcomes[name])}")
            if options.output:
                _write(Path(options.output), outcomes)
    finally:
        spare.end()
    return outcomes


def _ending(outcome: Outcome) -> str:
    reason = f" ({outcome.reason})" if outcome.reason else ""
    return f"{outcome.status}{reason}, {outcome.seconds:.0f} s"


def _text(row: Row) -> str:
    note = f" ({row.note})" if row.note else ""
    return f"{row.measure} {row.value:.4g} {'' if row.unit == RATIO else row.unit}".rstrip() + note


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def figures(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """By section."""
    return {name: outcome.as_figures() for name, outcome in outcomes.items()}


def ratios(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """All rows that compare two figures."""
    return {
        f"{name}: {row.measure}": row.value
        for name, outcome in outcomes.items()
        for row in outcome.rows
        if row.unit == RATIO
    }


def _write(path: Path, outcomes: dict[str, Outcome]) -> None:
    facts = {
        "figures": figures(outcomes),
        "ratios": ratios(outcomes),
        "machine": measured.machine(),
    }
    # Replaced as a whole: the machine may be taken away at any moment.
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(facts, indent=2) + "\n")
    temporary.replace(path)


def _table(outcomes: dict[str, Outcome]) -> list[list[str]]:
    rows = []
    for name, outcome in outcomes.items():
        rows.append([name, outcome.status, f"{outcome.seconds:.0f} s", outcome.reason])
        rows += [
            ["  " + row.measure, f"{row.value:.4g}", row.unit, row.note] for row in outcome.rows
        ]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sections that were asked for, and print them."""
    options = _parser().parse_args(argv)
    names = list(SECTIONS) if not options.sections else options.sections.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise SystemExit(
            f"gpu_check: --sections {','.join(unknown)}: must be of {', '.join(SECTIONS)}"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        _no_gpu(options)
        return
    if options.device == "cpu":
        if not options.tiny:
            raise SystemExit(
                "gpu_check: --device cpu: models of full size take hours there; pass --tiny too"
            )
        os.environ["DS_ACCELERATOR"] = "cpu"
    outcomes = check(names, Place(options.device, options.tiny), options)
    if options.output:
        _write(Path(options.output), outcomes)
    measured.answer(
        as_json=options.json,
        columns=("section and measure", "value", "unit", "note"),
        rows=_table(outcomes),
        figures=figures(outcomes),
        ratios=ratios(outcomes),
    )


def _no_gpu(options: argparse.Namespace) -> None:
    text = f"no GPU: torch {torch.__version__} finds no CUDA device here; nothing was measured"
    if options.output:
        _write(Path(options.output), {})
    if options.json:
        _say(text)
        measured.answer(as_json=True, columns=(), rows=(), figures={}, ratios={})
    else:
        sys.stdout.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser(str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--sections", default="", help=f"comma-separated; all by default: {','.join(SECTIONS)}"
    )
    parser.add_argument(
        "--budget-s", type=float, default=_BUDGET_S, help=f"seconds for all ({_BUDGET_S:.0f})"
    )
    parser.add_argument("--output", default="", help="a JSON file, written after every section")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu shows that the code runs"
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="small models and few repetitions; says nothing of speed",
    )
    return parser


if __name__ == "__main__":
    main()
