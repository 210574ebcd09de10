"""The storage root: the folder, local or s3://bucket/prefix, from which relative paths of all jobs start.

It is `--storage-root`, else the environment variable GLOTOK_STORAGE_ROOT, else the directory of the call. A job that
Ray runs in a temporary copy of a working directory must be given one, since what it wrote there would go with the copy.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from glotok_ray.config.overrides import (
    absolute_path,
    addresses,
    relative_paths,
    with_absolute_paths,
)
from glotok_ray.storage.object_stores import check_client, scheme_of
from glotok_ray.storage.places import is_remote, to_path

VARIABLE = "GLOTOK_STORAGE_ROOT"


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Add --storage-root to a job's own flags."""
    parser.add_argument(
        "--storage-root",
        metavar="DIR",
        default="",
        help="folder, or s3://BUCKET/PREFIX, from which relative paths start (else "
        f"${VARIABLE}, else the directory of the call)",
    )


def chosen(flag: str) -> Path:
    """The absolute storage root; raises ValueError for one that cannot be."""
    if flag:
        return to_path(absolute_path("--storage-root", flag, Path.cwd()))
    variable = os.environ.get(VARIABLE, "")
    return to_path(absolute_path(VARIABLE, variable, Path.cwd())) if variable else Path.cwd()


def given(name: str, root: Path, field: str) -> Path:
    """A file or folder named on the command line: seen from the directory of the call, or, if nothing is there, from
    the storage root.
    """
    here = to_path(absolute_path(field, name, Path.cwd()))
    return here if here.exists() else to_path(absolute_path(field, name, root))


def located(config: Any, root: Path) -> Any:
    """The config with every path absolute; raises ValueError when results would be lost in Ray's copy of the working
    directory.
    """
    copy = ray_copy(root)
    relative = relative_paths(config)
    if copy and relative:
        name, value = next(iter(relative.items()))
        raise ValueError(
            f"{name} = {value!r}: starts in {copy}, Ray's temporary copy of the working directory, which Ray removes "
            f"with all that a job writes there; give --storage-root DIR (or set {VARIABLE}), which every node sees"
        )
    found = with_absolute_paths(config, root)
    for name, value in addresses(found).items():
        check_client(scheme_of(value), f"{name} = {value!r}")
    return found


def ray_copy(folder: Path) -> Path | None:
    """The copy that `folder` lies in: Ray unpacks working directories as runtime_resources/working_dir_files/NAME."""
    if is_remote(folder):
        return None
    resolved = folder.resolve()
    for place in (resolved, *resolved.parents):
        if (
            place.parent.name == "working_dir_files"
            and place.parent.parent.name == "runtime_resources"
        ):
            return place
    return None
