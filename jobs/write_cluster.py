"""Write the cluster files from their description.

    python -m jobs.write_cluster
    python -m jobs.write_cluster --description my_cluster.yaml --output my_cluster

Reads cluster/description.yaml and writes aws.yaml, gcp.yaml, azure.yaml, raycluster.yaml and rayjob.yaml beside it.
Exit code 2, and nothing written, for a description that cannot be read or has a wrong field.
Read next: glotok_ray/on_ray/clusters/written.py
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from jobs.command_line import start_logging
from jobs.failures import DONE, guarded

logger = logging.getLogger(__name__)

DESCRIPTION = Path("cluster/description.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    start_logging()
    parser = argparse.ArgumentParser(
        prog="python -m jobs.write_cluster", description="Write the files under cluster/."
    )
    parser.add_argument("--description", type=Path, default=DESCRIPTION, metavar="FILE")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: beside it")
    flags = parser.parse_args(argv)
    folder = flags.output or flags.description.parent
    return guarded("write_cluster", lambda: _write(flags.description, folder))


def _write(description: Path, folder: Path) -> int:
    from glotok_ray.on_ray.clusters.description import read_description
    from glotok_ray.on_ray.clusters.written import cluster_files

    texts = cluster_files(read_description(description))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"--output {folder}: {error.strerror}; name a folder") from error
    for name, text in texts.items():
        (folder / name).write_text(text)
        logger.info("wrote %s", folder / name)
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
