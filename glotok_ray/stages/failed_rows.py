"""Rows of a sweep or of ablations that failed: their reason stands in a file, so that no later run trains them unasked.

Read next: glotok_ray/stages/rows.py
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glotok_ray.on_ray.failures import chain, reason_of
from glotok_ray.storage import artefact
from glotok_ray.storage.begun import FolderInUseError
from glotok_ray.storage.ownership import FolderLostError
from glotok_ray.storage.retries import StorageError

logger = logging.getLogger(__name__)

FAILED = "failed"
"""Of a row that failed: the reason, in one line."""
NOT_THE_ROWS = (FolderInUseError, FolderLostError, StorageError)
"""Nothing that a row's own settings bring about: the whole run stops."""


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
        if says_nothing_of_the_row(error):
            raise
        return {FAILED: keep_reason(path, error)}


def says_nothing_of_the_row(error: BaseException) -> bool:
    """Whether the error, or one of its causes, would have come to any row."""
    return any(isinstance(cause, NOT_THE_ROWS) for cause in chain(error))


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
