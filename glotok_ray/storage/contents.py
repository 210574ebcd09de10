"""Whose it is what lies in a folder: a job's of this package, or a user's own, which no job moves or removes.

A job's folder has a mark or a manifest. A collection, which holds other jobs' folders, is known by its parts.
Read next: glotok_ray/storage/begun.py
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from glotok_ray.storage import artefact, marks
from glotok_ray.storage.places import entries, is_remote

BEING_EMPTIED = "being emptied"
"""In the place of a fingerprint: the files are remains that no job goes on with, and some may be gone already."""
# Of marks, and what a kill left of a file that was being replaced.
_WORKING_FILES = (".begun.*", ".*.tmp")
# What desktops write into each folder that somebody looks into, and holds nothing of the user's.
_OF_DESKTOPS = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")


@dataclass(frozen=True)
class Collection:
    """What a job writes that keeps other jobs' folders in its own, which has no manifest."""

    files: tuple[str, ...]
    """Patterns of the names of its own files, those below among them."""
    first: str
    """The folder that is made before `settled`."""
    settled: str
    """The file that is written before all other folders; jobs that are run by hand may add some."""
    last: str
    """The file that is written at the end."""


def is_complete(folder: Path, collection: Collection | None) -> bool:
    """Whether the folder was once finished."""
    if collection is None:
        return artefact.is_finished(folder)
    return (folder / collection.last).is_file()


def foreign(folder: Path, collection: Collection | None) -> Path | None:
    """What no job of this package began: the folder itself, or something in a collection; None where there is none."""
    if collection is None:
        return None if _is_of_a_job(folder) else folder
    mark = marks.read_mark(folder)
    if mark is not None and mark.fingerprint == BEING_EMPTIED:
        return None
    inside = entries(folder)
    settled = any(path.name == collection.settled for path, _ in inside)
    for path, is_dir in inside:
        if is_dir:
            is_ours = (settled or path.name == collection.first) and _is_part(path)
        else:
            patterns = (*collection.files, *_WORKING_FILES, *_OF_DESKTOPS)
            is_ours = any(fnmatchcase(path.name, pattern) for pattern in patterns)
        if not is_ours:
            return path
    return None


def _is_part(folder: Path) -> bool:
    """Whether it is a job's folder, or holds jobs' folders alone, as that of the shards of both splits does."""
    return not _is_link(folder) and (
        _is_of_a_job(folder)
        or all(
            _is_of_a_job(path) if is_dir else path.name in (artefact.LOG_FILE, *_OF_DESKTOPS)
            for path, is_dir in entries(folder)
        )
    )


def _is_of_a_job(folder: Path) -> bool:
    return artefact.is_finished(folder) or is_known(folder)


def is_known(folder: Path) -> bool:
    """Whether the folder is empty, or what it holds was begun by a job that noted its fingerprint."""
    is_empty = not folder.is_dir() or not any(map(is_no_mark, folder.iterdir()))
    return is_empty or marks.read_mark(folder) is not None or bool(fingerprint_of_before(folder))


def is_no_mark(path: Path) -> bool:
    """Another process may be about to mark the folder."""
    return not path.name.startswith(".begun.")


def fingerprint_of_before(folder: Path) -> str:
    """What trainings of older versions noted in run.json, some of them there alone; empty without one."""
    path = folder / "run.json"
    facts = artefact.read_json(path) if path.is_file() else {}
    return facts.get("fingerprint", "") if isinstance(facts, dict) else ""


def is_replaceable(folder: Path, collection: Collection | None) -> bool:
    """Whether nothing is there, or a folder that holds nothing but what jobs of this package began."""
    if _is_link(folder) or folder.is_file():
        return False
    return not folder.exists() or foreign(folder, collection) is None


def _is_link(path: Path) -> bool:
    return not is_remote(path) and path.is_symlink()
