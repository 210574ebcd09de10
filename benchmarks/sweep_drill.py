"""A sweep that is disturbed on purpose: trials stopped, killed and failing, the sweep killed and taken up again.

    python -m benchmarks.sweep_drill
    python -m benchmarks.sweep_drill --folder runs/sweep_drill

The 12 trials of `quickstart_search` under Optuna and ASHA on the quickstart's data, by the very command that a user
runs. One trial's process is killed, one trial finds a strange folder in its place, and the whole command is killed when
half of the trials have ended; the same command then goes on. Exit code 0 when all is as it must be.
Read next: glotok_ray/on_ray/search.py
"""

import contextlib
import csv
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import measured
from benchmarks.drill_runs import Call, DrillFailed, require, wait_until
from glotok_ray.recipes.sweep_tokenizer import quickstart_search
from glotok_ray.training.trials import TrialFiles, TrialRecord

logger = logging.getLogger(__name__)

KILLED, FAILING = "trial_02", "trial_04"
ENDED_AT_KILL = 6
PARTS = ("best", "trials", "coordinates", "pareto", "progress", "failed", "settings")
"""The sections that the page must have."""
_COMMAND = [sys.executable, "-m", "jobs.sweep_tokenizer", "quickstart_search"]
_LONGEST_S = 900.0


class Seen(NamedTuple):
    """What the drill saw."""

    statuses: dict[str, int]
    """Trials by how they ended."""
    starts: dict[str, int]
    """Processes that worked on each trial."""
    replayed: int
    """Trials that had ended before the sweep was killed, none of which was started again."""
    best: str
    seconds: float


class SweepDrill:
    """The sweep's folder and the commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sweep = folder / quickstart_search().output_path
        self._files = TrialFiles(self._sweep / "trials")
        self._calls: list[Call] = []

    def run(self) -> Seen:
        """All of it; raises DrillFailed for what must not be."""
        started = time.monotonic()
        try:
            ended = self._first()
            self._second(ended)
        finally:
            for call in self._calls:
                call.kill()
        records = self._files.records()
        self._check(records)
        with (self._sweep / "results.csv").open() as stream:
            best = next(csv.DictReader(stream))["trial"]
        return Seen(
            {
                status: sum(record.status == status for record in records)
                for status in ("finished", "stopped", "failed")
            },
            {record.trial.name: record.starts for record in records},
            len(ended),
            best,
            round(time.monotonic() - started, 1),
        )

    def _first(self) -> list[TrialRecord]:
        """Run until half of the trials have ended, then kill everything; returns those that had ended."""
        call = self._call("first")

        def alive() -> bool:
            require(call.running, f"the command ended by itself: {self._folder / 'logs'}")
            return True

        wait_until(lambda: alive() and self._files.names(), "the first trial", _LONGEST_S)
        strange = self._files.folder / FAILING / "strange.txt"
        strange.parent.mkdir()
        strange.write_text("not a run's folder\n")
        pid = wait_until(lambda: alive() and self._pid_in_training(KILLED), KILLED, _LONGEST_S)
        os.kill(pid, signal.SIGKILL)
        logger.info("killed the process of %s", KILLED)
        wait_until(
            lambda: alive() and len(self._ended()) >= ENDED_AT_KILL,
            f"{ENDED_AT_KILL} trials that ended",
            _LONGEST_S,
        )
        call.kill()
        logger.info("killed the sweep")
        return self._ended()

    def _second(self, ended: Sequence[TrialRecord]) -> None:
        """The same command again, to its end."""
        call = self._call("second")
        wait_until(lambda: not call.running, "the end of the sweep", _LONGEST_S)
        done = call.wait()
        require(done.code == 0, f"the second command ended with {done.code}: {done.last_line}")
        for before in ended:
            after = self._files.record(before.trial.name)
            require(after == before, f"{before.trial.name} had ended and was changed: {after}")

    def _check(self, records: Sequence[TrialRecord]) -> None:
        by_name = {record.trial.name: record for record in records}
        config = quickstart_search()
        require(len(records) == config.num_trials, f"{len(records)} trials")
        found = {record.status for record in records}
        require(found == {"finished", "stopped", "failed"}, f"trials ended {found}")
        require(
            [name for name, record in by_name.items() if record.status == "failed"] == [FAILING],
            f"failed: {[record.reason for record in records if record.status == 'failed']}",
        )
        require(by_name[KILLED].starts >= 2, f"{KILLED} was not started again")
        require(by_name[KILLED].status != "failed", f"{KILLED}: {by_name[KILLED].reason}")
        page = (self._sweep / "sweep.html").read_text()
        missing = [part for part in PARTS if f'<section id="{part}">' not in page]
        require(not missing, f"the page lacks {missing}")
        require(page.count("<svg") >= 3, f"the page has {page.count('<svg')} charts")
        for name in ("results.csv", "finalists.csv", "table.md", "sweep.png"):
            require((self._sweep / name).is_file(), f"{name} is missing")
        self._train_best()

    def _train_best(self) -> None:
        """The best recipe is one that `train_tokenizer` takes."""
        command = [
            sys.executable,
            "-m",
            "jobs.train_tokenizer",
            str(self._sweep / "best_recipe.json"),
        ]
        done = subprocess.run(
            [*command, "--dry-run"],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        require(done.returncode == 0, f"best_recipe.json is no recipe: {done.stderr[-300:]}")

    def _call(self, name: str) -> Call:
        call = Call(_COMMAND, self._folder, self._folder / "logs" / f"{name}.txt", "")
        self._calls.append(call)
        return call

    def _ended(self) -> list[TrialRecord]:
        return [record for record in self._files.records() if record.status]

    def _pid_in_training(self, name: str) -> int:
        """The process of a trial whose training has begun; 0 before."""
        begun = (self._files.folder / name / "config.json").is_file()
        return self._files.last_start(name).get("pid", 0) if begun else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drill and print; returns the exit code."""
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.add_argument(
        "--folder",
        help="a folder that stays, without a sweep; the quickstart's shards and teacher in it are used. Else a "
        "temporary one",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    with contextlib.ExitStack() as stack:
        if arguments.folder:
            folder = Path(arguments.folder).absolute()
            if (folder / quickstart_search().output_path).exists():
                parser.error(f"--folder {folder}: holds a sweep already")
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep_drill_")))
        try:
            seen = SweepDrill(folder).run()
        except DrillFailed as error:
            logger.error("sweep_drill: %s", error)
            return 1
    measured.answer(
        as_json=arguments.json,
        columns=("what", "seen"),
        rows=[
            *[[f"trials that {status}", str(count)] for status, count in seen.statuses.items()],
            ["processes of the killed trial", str(seen.starts[KILLED])],
            ["trials that had ended when the sweep was killed", str(seen.replayed)],
            ["best trial", seen.best],
            ["seconds", f"{seen.seconds:.0f}"],
        ],
        figures=seen._asdict(),
        ratios={},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
