"""How a job ends: exit codes, one line for what went wrong, and the traceback in a file that the line names."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from glotok_ray.console import CONSOLE
from glotok_ray.on_ray.causes import cause_line, innermost
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.ownership import FolderLostError

logger = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
TERMINATED = 128 + signal.SIGTERM


def guarded(name: str, job: Callable[[], int], output: Sequence[Path] = ()) -> int:
    """The exit code of `job`, or of what it raises; `output` may come to hold the folder that it works in."""
    try:
        with ownership.holding():  # SIGTERM unwinds the job, so that its folders are given back
            try:
                return job()
            finally:
                CONSOLE.keep()  # a line of progress ends where the work does
    except KeyboardInterrupt:
        logger.error("%s: interrupted; the same command goes on", name)
        return INTERRUPTED
    except SystemExit as ended:
        # Ray's own handler, where a process was connected before, ends with the signal's number.
        if not ownership.was_terminated() and ended.code not in (TERMINATED, int(signal.SIGTERM)):
            raise
        logger.error("%s: ended by SIGTERM; the same command goes on", name)
        return TERMINATED
    # Any other error ends the run: the user sees the cause, and the log has the traceback.
    except Exception as error:
        cause = innermost(error)
        # In a worker a plain ValueError is a library's; bad input is named as such.
        if isinstance(cause, ValueError if cause is error else ArtefactError):
            logger.error("%s: %s", name, cause)
            return BAD_INPUT
        if isinstance(cause, FolderLostError):  # nothing failed, and the folder is another's now
            logger.error("%s: %s", name, cause)
            return FAILED
        said = cause_line(cause)
        if "; log: " not in said:  # a training has written its own, and names it
            log = _write_log(name, output)
            said += f"; log: {log}" if log else ""
        logger.error("%s: failed: %s", name, said)
        return FAILED


def _write_log(name: str, output: Sequence[Path]) -> Path | None:
    """Append the present traceback to a file in the first folder that takes it: of the output if the job has begun one
    (an empty one would no longer count as free), else of the system's temporary files.
    """
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}, process {os.getpid()}: {' '.join(sys.argv)}\n"
    text += traceback.format_exc() + "\n"
    for folder in output:
        with contextlib.suppress(OSError):
            if any(folder.iterdir()):
                with (folder / artefact.LOG_FILE).open("a") as stream:
                    stream.write(text)
                return folder / artefact.LOG_FILE
    with contextlib.suppress(OSError):
        options = {"prefix": f"glotok-{name}-", "suffix": ".log", "delete": False}
        with tempfile.NamedTemporaryFile("w", **options) as stream:
            stream.write(text)
        return Path(stream.name)
    sys.stderr.write(text)
    return None
