"""Tell where runs are: state, step, ETA, last checkpoint, restarts, problems.

    python -m jobs.status runs
    python -m jobs.status runs/xar_b --json

Takes a run's folder, or one above such. Reads files alone: it starts no Ray and asks no process of another machine, so
it works wherever the folder can be seen. Exit code 2 for a folder in which nothing was begun, 1 when a run has failed.
Read next: glotok_ray/training/run_status.py
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import storage_root
from jobs.command_line import start_logging
from jobs.failures import DONE, FAILED, guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    start_logging()
    parser = argparse.ArgumentParser(
        prog="python -m jobs.status", description="Tell where runs are."
    )
    parser.add_argument("folder", metavar="FOLDER", help="of a run, or one above such")
    parser.add_argument("--json", action="store_true", help="one JSON object per run and line")
    storage_root.add_flag(parser)
    flags = parser.parse_args(argv)

    def job() -> int:
        root = storage_root.given(flags.folder, storage_root.chosen(flags.storage_root), "FOLDER")
        return _show(root, as_json=flags.json)

    return guarded("status", job)


def _show(root: Path, *, as_json: bool) -> int:
    from glotok_ray.training.run_problems import describe_status, problems
    from glotok_ray.training.run_status import runs_under, status_of

    found = [status_of(folder) for folder in runs_under(root)] or [status_of(root)]
    for status in found:
        values = status._asdict() | {"problems": list(problems(status))}
        lines = [json.dumps(values, default=_plain)] if as_json else describe_status(status)
        sys.stdout.write("\n".join(lines) + "\n")
    return FAILED if any(status.state == "failed" for status in found) else DONE


def _plain(value: object) -> object:
    """Dataclasses as mappings, paths as text."""
    return vars(value) if hasattr(value, "__dataclass_fields__") else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
