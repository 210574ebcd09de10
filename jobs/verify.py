r"""Verify finished folders: all bytes against manifest.json, data sets against dataset.json too; write a receipt.

    python -m jobs.verify data/imagenet/train data/imagenet/validation
    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.verify runs/glotok_16k_codes

Machine: any; it starts no Ray, and its threads read as fast as storage and cores allow (ImageNet's 147 GB: minutes). A
run folder is verified with its checkpoints, and `runs` with all that lies in it or is linked there. Result:
verified.json in each folder, which launches trust as long as manifest, sizes and times of the files stay; with damage
none, a line per damaged file that names the damaged rows of a shard, and exit code 2.
Read next: glotok_ray/data/verification.py
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import storage_root
from jobs.command_line import start_logging
from jobs.failures import BAD_INPUT, DONE, guarded

logger = logging.getLogger(__name__)


def run(names: Sequence[str], root: Path) -> tuple[int, list[dict[str, Any]]]:
    """Verify the folders, and return the exit code and what was found in each."""
    from glotok_ray.data.verification import manifest_folders, verify_folder

    given = [storage_root.given(name, root, "FOLDER") for name in names]
    folders = dict.fromkeys(found for folder in given for found in manifest_folders(folder))
    answer, code = [], DONE
    for folder in folders:
        started = time.monotonic()
        verdict = verify_folder(folder)
        for line in verdict.damage:
            logger.error("%s", line)
            code = BAD_INPUT
        seconds = round(time.monotonic() - started, 1)
        answer.append(verdict._asdict() | {"folder": str(folder), "seconds": seconds})
    return code, answer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    start_logging()
    parser = argparse.ArgumentParser(
        prog="python -m jobs.verify", description="Read all bytes of finished folders."
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="a folder that a job wrote, or one above such"
    )
    storage_root.add_flag(parser)
    flags = parser.parse_args(argv)

    def verify() -> int:
        code, answer = run(flags.folders, storage_root.chosen(flags.storage_root))
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return code

    return guarded("verify", verify)


if __name__ == "__main__":
    raise SystemExit(main())
