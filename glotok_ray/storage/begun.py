"""Folders that jobs begin: whose they are, what is kept of what lies there, and what is refused.

A folder is begun by its mark (`ownership.py`), finished by its manifest (`artefact.py`), and
anything else in it is a user's own.
"""

import os
from pathlib import Path

from glotok_ray.storage import artefact, marks, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import is_remote, remove_tree


class FolderInUseError(ArtefactError):
    """Another job works on a folder; the text names it."""


def own(folder: Path) -> None:
    """Make this process the owner of `folder`; raises FolderInUseError, which names the owner that works on it, and
    ArtefactError where no folder can be made.
    """
    _check_place(folder)
    _refuse(folder, ownership.claim(folder))


def check_free(folder: Path) -> None:
    """Raise FolderInUseError when another job works on `folder` or on a folder in it, and ArtefactError where no folder
    can be made.
    """
    _check_place(folder)
    for mark in (folder / marks.MARK, *sorted(folder.glob(f"*/{marks.MARK}"))):
        _refuse(mark.parent, ownership.live_owner(mark.parent))
    for mark in sorted(folder.glob(f"*/*/{marks.MARK}")):
        _refuse(mark.parent, ownership.live_owner(mark.parent))


def _check_place(folder: Path) -> None:
    if is_remote(folder):  # whose folders need no making
        return
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), None)
    if there is not None and not there.is_dir():
        what = "" if there == folder else f", so that {folder} cannot be made"
        raise ArtefactError(
            f"{there}: is no folder{what}; choose another output_path, or move it away yourself"
        )


def _refuse(folder: Path, owner: marks.Owner | None) -> None:
    if owner is not None:
        raise FolderInUseError(
            f"{folder}: another job works on it: {owner}; wait for its end, end it, or choose another output_path"
        )


def set_aside(folder: Path) -> None:
    """Keep what `folder` holds as NAME.previous, in the place of an older one; nothing happens when there is none.

    Raises FolderInUseError when another job works on it, and ArtefactError for what is no folder.
    """
    check_free(folder)
    if folder.exists():
        own(folder)
        previous = folder.with_name(folder.name + ".previous")
        remove_tree(previous, ignore_errors=True)
        ownership.move(folder, previous)
        if artefact.is_finished(previous):
            ownership.clear(previous)


def reopen(folder: Path, fingerprint: str = "") -> None:
    """Make a finished folder an unfinished one again, which `start_folder` may empty, unless a job of this
    `fingerprint` goes on with its files.
    """
    own(folder)
    ownership.ask(folder, fingerprint)
    (folder / artefact.MANIFEST).unlink()


def check_startable(folder: Path, *, fresh: bool) -> None:
    """Raise ArtefactError when `start_folder` would refuse: a finished folder without `fresh`, files that no job of
    this package began, or a folder that another job works on.
    """
    check_free(folder)
    if artefact.is_finished(folder):
        if not fresh:
            raise ArtefactError(f"{folder}: already finished; pass --fresh to redo it")
        return
    foreign = folder.is_dir() and any(folder.iterdir())
    if foreign and marks.read_mark(folder) is None:
        raise ArtefactError(
            f"{folder}: holds files that no job of this package began, and a job would remove "
            "them; choose another output_path, or empty it yourself"
        )


def start_folder(
    folder: Path,
    *,
    fresh: bool,
    keep: bool = False,
    fingerprint: str = "",
    replace: bool = False,
) -> Path:
    """Make `folder` ready for a job, its owner this process; with `fresh` a finished one is kept as NAME.previous.

    Unfinished remains are removed, or with `keep` left to a job that goes on with them, and with a `fingerprint`
    left when they have the same. Raises what `check_startable` raises, and ArtefactError for remains of another
    fingerprint, which `replace` removes.
    """
    check_startable(folder, fresh=fresh)
    own(folder)
    if artefact.is_finished(folder):
        if not fresh:  # by a job that has ended just now
            ownership.finish(folder)
            raise ArtefactError(f"{folder}: already finished; pass --fresh to redo it")
        set_aside(folder)
        own(folder)
    asked = begun_fingerprint(folder)
    if fingerprint and not (fresh or replace) and asked not in ("", fingerprint):
        raise ArtefactError(_other_fingerprint(folder))
    if fresh or not (keep or (fingerprint and asked == fingerprint)):
        _empty(folder)
    ownership.ask(folder, fingerprint)
    return folder


def go_on(folder: Path, fingerprint: str, *, adopt: bool = False) -> None:
    """Make `folder`, where it is missing, and go on with whatever is in it, its owner this process.

    Raises FolderInUseError, and ArtefactError for unfinished work of another fingerprint, or without `adopt` of none
    that is known: files without a mark, such as a copy that lacks its hidden file.
    """
    _check_place(folder)
    if not (adopt or artefact.is_finished(folder) or _is_known(folder)):
        raise ArtefactError(
            f"{folder}: holds files and no {marks.MARK}, which says what settings they are of; copy that hidden file "
            "with a folder, choose another output_path (of a training, another --name), or pass --fresh"
        )
    own(folder)
    if begun_fingerprint(folder) not in ("", fingerprint):
        raise ArtefactError(_other_fingerprint(folder))
    ownership.ask(folder, fingerprint)


def begun_fingerprint(folder: Path) -> str:
    """The fingerprint of the files in an unfinished folder; empty where that was not noted."""
    mark = marks.read_mark(folder)
    return (mark.fingerprint if mark else "") or _fingerprint_of_before(folder)


def _fingerprint_of_before(folder: Path) -> str:
    """What trainings of older versions noted in run.json, some of them there alone; empty without one."""
    path = folder / "run.json"
    facts = artefact.read_json(path) if path.is_file() else {}
    return facts.get("fingerprint", "") if isinstance(facts, dict) else ""


def _is_known(folder: Path) -> bool:
    """Whether the folder is empty, or what it holds was begun by a job that noted its fingerprint."""
    is_empty = not folder.is_dir() or not any(map(_is_no_mark, folder.iterdir()))
    return is_empty or marks.read_mark(folder) is not None or bool(_fingerprint_of_before(folder))


def _other_fingerprint(folder: Path) -> str:
    return (
        f"{folder}: holds unfinished work of other settings or inputs; choose another output_path (of a training, "
        f"another --name), or pass --fresh"
    )


def _is_no_mark(path: Path) -> bool:
    """Another process may be about to mark the folder."""
    return not path.name.startswith(".begun.")


def _empty(folder: Path) -> None:
    """Remove everything but the mark, so that after a kill in between the files still belong to a job."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        elif _is_no_mark(path):
            path.unlink()
