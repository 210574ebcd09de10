"""How a job ends: exit codes, one line for what went wrong, and the traceback in a file that the line names."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from glotok_ray import artefact
from glotok_ray.artefact import ArtefactError

logger = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
TERMINATED = 128 + signal.SIGTERM

_LONGEST_CAUSE = 600


def guarded(name: str, job: Callable[[], int], output: Sequence[Path] = ()) -> int:
    """The exit code of `job`, or of what it raises; `output` may come to hold the folder that it works in."""
    _end_in_order()
    try:
        return job()
    except KeyboardInterrupt:
        logger.error("%s: interrupted; the same command goes on", name)
        return INTERRUPTED
    except SystemExit as ended:
        # Ray's own handler, in place of ours once it is connected, ends with the signal's number.
        if ended.code not in (TERMINATED, int(signal.SIGTERM)):
            raise
        logger.error("%s: ended by SIGTERM; the same command goes on", name)
        return TERMINATED
    # Whatever ends a run: the user sees the cause, and the traceback is kept for who mends it.
    except Exception as error:
        cause = innermost(error)
        # In a worker a plain ValueError is a library's; bad input is named as such.
        if isinstance(cause, ValueError if cause is error else ArtefactError):
            logger.error("%s: %s", name, cause)
            return BAD_INPUT
        log = _write_log(name, output)
        where = f"; the traceback is in {log}" if log else ""
        logger.error("%s: failed: %s%s", name, cause_line(cause), where)
        return FAILED


def _end_in_order() -> None:
    """Let SIGTERM (`ray job stop`, a scheduler) unwind the job, so that its folders are given back."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))


def innermost(error: BaseException) -> BaseException:
    """What was raised in a worker, out of the errors of Ray that brought it here; any other error itself."""
    seen: set[int] = set()
    while is_rays(error) and id(error) not in seen:
        seen.add(id(error))
        # Names of ray.exceptions.RayTaskError and of ray.train's errors.
        held = (getattr(error, name, None) for name in ("cause", "controller_failure", "_base_exc"))
        workers = getattr(error, "worker_failures", None) or {}
        found = [item for item in (*held, *workers.values(), error.__cause__) if item is not None]
        if not found or not isinstance(found[0], BaseException):
            break
        error = found[0]
    return error


def is_rays(error: BaseException) -> bool:
    """Whether Ray made this error, or wrapped it; known by its classes' homes, so that jobs without Ray need no Ray."""
    return any(kind.__module__.split(".")[0] == "ray" for kind in type(error).__mro__)


def cause_line(error: BaseException) -> str:
    """The error in one line; of Ray's own, which hold whole tracebacks, the last line, which has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = lines[-1] if is_rays(error) else " ".join(lines)
    # Texts of this package speak for themselves; "[Errno 28] No space left" and a bare key do not.
    if type(error).__module__.startswith("glotok_ray"):
        return text
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST_CAUSE else text[:_LONGEST_CAUSE] + " ..."


def _write_log(name: str, output: Sequence[Path]) -> Path | None:
    """Append the present traceback to a file in the first folder that takes it: of the output if the job has begun one
    (an empty one would no longer count as free), else of the system's temporary files.
    """
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}, process {os.getpid()}: {' '.join(sys.argv)}\n"
    text += traceback.format_exc() + "\n"
    for folder in output:
        with contextlib.suppress(OSError):
            if any(folder.iterdir()):
                with (folder / artefact.FAILURE_LOG).open("a") as stream:
                    stream.write(text)
                return folder / artefact.FAILURE_LOG
    with contextlib.suppress(OSError):
        options = {"prefix": f"glotok-{name}-", "suffix": ".log", "delete": False}
        with tempfile.NamedTemporaryFile("w", **options) as stream:
            stream.write(text)
        return Path(stream.name)
    sys.stderr.write(text)
    return None
