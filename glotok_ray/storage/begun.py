"""Folders that jobs begin: whose they are, what is kept of what lies there, and what is refused.

A folder is begun by its mark (`ownership.py`), finished by its manifest (`artefact.py`), and
anything else in it is a user's own (`contents.py`).
"""

import logging
import os
from pathlib import Path

from glotok_ray.storage import artefact, contents, marks, ownership
from glotok_ray.storage.artefact import ArtefactError, OtherWorkError
from glotok_ray.storage.contents import Collection
from glotok_ray.storage.places import is_remote, remove_tree

logger = logging.getLogger(__name__)


class FolderInUseError(ArtefactError):
    """Another job works on a folder, or has ended there since this one looked; the text names the folder."""


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


def set_aside(folder: Path, collection: Collection | None = None) -> None:
    """Keep what `folder` holds as NAME.previous, in the place of an older one; nothing happens when there is none.
    Unfinished work takes no finished one's place: it is removed, and the folder stays this process's own.

    Raises FolderInUseError when another job works on it, and ArtefactError for what is no folder, and where something
    would be moved or removed that no job of this package began; a `collection` says what it may hold.
    """
    check_free(folder)
    if not folder.exists():
        return
    _check_own(folder, collection)
    own(folder)
    previous = _previous(folder)
    if contents.is_complete(previous, collection) and not contents.is_complete(folder, collection):
        logger.info("%s: unfinished, and removed; %s is finished, and stays", folder, previous)
        _empty_for_good(folder)
        return
    remove_tree(previous, ignore_errors=True)
    ownership.move(folder, previous)
    if artefact.is_finished(previous):
        ownership.clear(previous)


def removed_by_fresh(folder: Path) -> Path | None:
    """The NAME.previous whose place the folder takes with `fresh`; None where it stays, or where there is none."""
    previous = _previous(folder)
    if not (folder.exists() and previous.exists()):
        return None
    stays = artefact.is_finished(previous) and not artefact.is_finished(folder)
    return None if stays else previous


def _previous(folder: Path) -> Path:
    return folder.with_name(folder.name + ".previous")


def _check_own(folder: Path, collection: Collection | None = None) -> None:
    """Raise ArtefactError where setting `folder` aside would move or remove what no job of this package began."""
    foreign = contents.foreign(folder, collection)
    if foreign is not None and foreign != folder:
        raise ArtefactError(
            f"{foreign}: no job of this package began it, and --fresh would move it away with {folder}; "
            "choose another output_path, or move it away yourself"
        )
    if foreign is not None:
        raise ArtefactError(_foreign_files(folder))
    if not contents.is_replaceable(_previous(folder), collection):
        raise ArtefactError(
            f"{_previous(folder)}: is no folder that a job of this package has left, and --fresh would remove it; "
            "move it away yourself, or choose another output_path"
        )


def _foreign_files(folder: Path) -> str:
    return (
        f"{folder}: holds files that no job of this package began, and a job would remove "
        "them; choose another output_path, or empty it yourself"
    )


def own_collection(folder: Path) -> None:
    """`own`, after which nothing is left of what a job that was killed was removing."""
    own(folder)
    mark = marks.read_mark(folder)
    if mark is not None and mark.fingerprint == contents.BEING_EMPTIED:
        _empty_for_good(folder)


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
        _check_own(folder)
        return
    foreign = folder.is_dir() and any(folder.iterdir())
    if foreign and marks.read_mark(folder) is None:
        raise ArtefactError(_foreign_files(folder))


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
        raise _other_work(folder)
    if fresh or not (keep or (fingerprint and asked == fingerprint)):
        _empty(folder)
    ownership.ask(folder, fingerprint)
    return folder


def go_on(folder: Path, fingerprint: str, *, adopt: str = "") -> None:
    """Make `folder`, where it is missing, and go on with whatever is in it, its owner this process.

    Raises FolderInUseError, and ArtefactError for unfinished work of another fingerprint, or of none that is known:
    files without a mark, such as a copy that lacks its hidden file. With the folder `adopt` among them they are taken.
    """
    _check_place(folder)
    is_adopted = bool(adopt) and (folder / adopt).is_dir()
    if not (is_adopted or artefact.is_finished(folder) or contents.is_known(folder)):
        raise ArtefactError(
            f"{folder}: holds files and no {marks.MARK}, which says what settings they are of; copy that hidden file "
            "with a folder, choose another output_path (of a training, another --name), or empty it yourself"
        )
    own(folder)
    if begun_fingerprint(folder) not in ("", fingerprint):
        raise _other_work(folder)
    ownership.ask(folder, fingerprint)


def begun_fingerprint(folder: Path) -> str:
    """The fingerprint of the files in an unfinished folder; empty where that was not noted."""
    mark = marks.read_mark(folder)
    return (mark.fingerprint if mark else "") or contents.fingerprint_of_before(folder)


def _other_work(folder: Path) -> OtherWorkError:
    return OtherWorkError(
        f"{folder}: holds unfinished work of other settings or inputs",
        "choose another output_path (of a training, another --name), or pass --fresh",
    )


def _empty_for_good(folder: Path) -> None:
    """Remove everything, so that after a kill in between no job goes on with what is left."""
    ownership.ask(folder, contents.BEING_EMPTIED)
    _empty(folder)
    ownership.ask(folder, "")


def _empty(folder: Path) -> None:
    """Remove everything but the mark, so that after a kill in between the files still belong to a job."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        elif contents.is_no_mark(path):
            path.unlink()
