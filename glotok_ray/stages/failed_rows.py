"""Rows of a sweep or of ablations that failed: their reason stands in a file, so that no later run trains them unasked.

Read next: glotok_ray/stages/rows.py
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glotok_ray.on_ray.causes import innermost
from glotok_ray.on_ray.failures import chain, reason_of
from glotok_ray.storage import artefact
from glotok_ray.storage.begun import FolderInUseError
from glotok_ray.storage.ownership import FolderLostError
from glotok_ray.storage.retries import StorageError

logger = logging.getLogger(__name__)

FAILED = "failed"
"""Of a row that failed: the reason, in one line."""
_NOT_THE_ROWS = (FolderInUseError, FolderLostError, StorageError)
# What files and stores raise that nobody was patient with. Other kinds say what a row asked for, such as no such file.
_OF_STORAGE = (OSError, PermissionError)


def attempt(path: Path, work: Callable[[], Mapping[str, Any]], *, retry: bool) -> dict[str, Any]:
    """The metrics that `work` returns for a row, or the reason why it has none, under FAILED.

    The reason is kept in `path`; as long as it lies there, nothing is tried again without `retry`. Raises what says
    nothing of the row: that another job works on its folder, or that storage is away.
    """
    if path.is_file() and not retry:
        return {FAILED: artefact.read_json(path)["reason"]}
    path.unlink(missing_ok=True)
    try:
        return dict(work())
    # Any error of one row leaves the others as they are.
    except Exception as error:
        if not_of_the_row(error):
            raise
        return {FAILED: keep_reason(path, error)}


def not_of_the_row(error: BaseException) -> BaseException | None:
    """The error, or that one of its causes, that would have come to any row, so that the whole run stops: another job
    works on a folder, or storage is away. None for an error of the row's own.
    """
    for cause in chain(error):
        # Of what an actor raised the text alone may arrive.
        for found in (cause, innermost(cause)):
            if isinstance(found, _NOT_THE_ROWS):
                return found
    inner = innermost(error)
    return inner if type(inner) in _OF_STORAGE else None


def keep_reason(path: Path, error: BaseException) -> str:
    """Write the error of a row to `path`; returns it in one line."""
    reason = reason_of(error)
    lines = "".join(traceback.format_exception(error)).splitlines()
    artefact.write_json(path, {"reason": reason, "traceback": lines})
    return reason


def failed_of(rows: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, str]:
    """The reasons of those that failed, by name; warns of them, and raises RuntimeError when all of them did."""
    failed = {name: str(row[FAILED]) for name, row in rows.items() if row.get(FAILED)}
    for name, reason in failed.items():
        logger.warning("%s failed: %s", name, reason)
    if len(failed) == len(rows):
        name, reason = next(iter(failed.items()))
        raise RuntimeError(
            f"all {len(rows)} {what} failed; the first, {name}: {reason}; mend that and pass --retry-failed"
        )
    if failed:
        logger.warning(
            "%d of %d %s failed and stand without metrics; --retry-failed trains them again",
            len(failed),
            len(rows),
            what,
        )
    return failed
