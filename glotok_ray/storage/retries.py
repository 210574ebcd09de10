"""Patience with storage: an action is tried again, with growing pauses, until it works or minutes have passed.

A shared file system or an object store may be away for seconds or minutes; a run of weeks must outlive that.
"""

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0


class StorageError(RuntimeError):
    """Storage did not answer for as long as the limit says; the text names the path, the cause and the remedy."""


def patiently(
    action: Callable[[], Result],
    path: Path,
    *,
    minutes: float,
    doing: str = "reading",
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """The result of `action`, which is called again after each OSError until `minutes` have passed.

    Pauses double from 0.2 s to 30 s, each shortened at random by up to half, so that many workers do not come back at
    once. Raises StorageError, which names `path`, when time is up; other errors of `action` pass at once.
    """
    deadline = time.monotonic() + 60 * minutes
    pause, warned = _FIRST_PAUSE_S, False
    while True:
        try:
            return action()
        except OSError as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise StorageError(
                    f"{path}: {doing} it failed for {minutes:g} minutes, last with: {error}; bring the storage back "
                    "and start the same command again"
                ) from error
            if not warned:
                logger.warning(
                    "%s: %s it failed (%s); trying again for up to %g minutes",
                    path,
                    doing,
                    error,
                    minutes,
                )
                warned = True
            sleep(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
