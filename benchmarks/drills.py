"""Drills of a training: kills, full disks, lost shards, damaged checkpoints; each must end as if nothing had happened.

    python -m benchmarks.drills
    python -m benchmarks.drills rank_in_step disk_full --folder runs/drills

A tiny tokenizer trains on two CPU workers, once undisturbed and once in every drill, by the very job that a user runs.
Exit code 0 when no drill failed. Read next: benchmarks/drill_cases.py
"""

import contextlib
import dataclasses
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measured
from benchmarks.drill_cases import DRILLS
from benchmarks.drill_runs import DrillFailed, DrillSkipped, Ground

logger = logging.getLogger(__name__)

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a drill ended."""

    drill: str
    verdict: str
    reason: str
    restarts: int
    repeated_steps: int
    """Steps that were done twice."""
    seconds: float


def run_drill(name: str, ground: Ground, away_s: float) -> Verdict:
    """Run one drill on a ground that is prepared."""
    start = time.monotonic()
    verdict, reason, restarts, repeated = FAILED, "", 0, 0
    try:
        restarts, repeated = DRILLS[name](ground, away_s)
        verdict = PASSED
    except DrillSkipped as error:
        verdict, reason = SKIPPED, str(error)
    except DrillFailed as error:
        reason = str(error)
    finally:
        ground.end()
    seconds = round(time.monotonic() - start, 1)
    logger.info("%s: %s in %.0f s %s", name, verdict, seconds, reason)
    return Verdict(name, verdict, reason, restarts, repeated, seconds)


def run_drills(names: Sequence[str], folder: Path, away_s: float) -> list[Verdict]:
    """The undisturbed run and the drills `names`, in a folder that is empty; raises DrillFailed where nothing runs."""
    ground = Ground(folder)
    try:
        ground.prepare()
    finally:
        ground.end()
    logger.info("the undisturbed run is done")
    return [run_drill(name, ground, away_s) for name in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drills and print; returns the exit code."""
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.epilog = "drills: " + ", ".join(DRILLS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="drills; all of them by default")
    parser.add_argument("--folder", help="an empty folder that stays; else a temporary one")
    parser.add_argument(
        "--away-s", type=float, default=60.0, help="seconds for which shards are away (60)"
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in DRILLS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: there is {', '.join(DRILLS)}")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    with contextlib.ExitStack() as stack:
        if arguments.folder:
            folder = Path(arguments.folder).absolute()
            if folder.exists() and any(folder.iterdir()):
                parser.error(f"--folder {folder}: is not empty")
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drills_")))
        try:
            verdicts = run_drills(arguments.names or list(DRILLS), folder, arguments.away_s)
        except DrillFailed as error:
            logger.error("drills: the undisturbed run failed: %s", error)
            return 1
    _answer(verdicts, as_json=arguments.json)
    return int(any(each.verdict == FAILED for each in verdicts))


def _answer(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    measured.answer(
        as_json=as_json,
        columns=("drill", "restarts", "repeated steps", "seconds", "verdict"),
        rows=[
            [
                each.drill,
                str(each.restarts),
                str(each.repeated_steps),
                f"{each.seconds:.0f}",
                each.verdict + (f": {each.reason}" if each.reason else ""),
            ]
            for each in verdicts
        ],
        figures={each.drill: dataclasses.asdict(each) for each in verdicts},
        ratios={},
    )


if __name__ == "__main__":
    raise SystemExit(main())
