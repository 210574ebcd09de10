"""What went wrong, in one line, out of the errors in which Ray wraps what a worker raised; imports no Ray.

Read next: jobs/failures.py
"""

import re

from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError

_LONGEST = 600
# What a traceback says between an exception and the one that came of it.
_BETWEEN = re.compile(
    r"\n\s*(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\s*\n"
)
_HEAD = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?:: (.*))?$", re.DOTALL)
# What Ray Data puts around the exception of a task, of which the text alone arrives.
_SHELL = "UserCodeException"
_OURS = {
    "ArtefactError": ArtefactError,
    "FolderInUseError": ArtefactError,
    "StorageError": StorageError,
}


class WorkerError(RuntimeError):
    """What a worker raised, of which the text alone arrived: its kind and its message."""


def innermost(error: BaseException) -> BaseException:
    """What was raised in a worker, out of the errors of Ray that brought it here; any other error itself."""
    seen: set[int] = set()
    outer = error
    while is_rays(error) and id(error) not in seen:
        seen.add(id(error))
        # Names of ray.exceptions.RayTaskError and of ray.train's errors.
        held = (getattr(error, name, None) for name in ("cause", "controller_failure", "_base_exc"))
        workers = getattr(error, "worker_failures", None) or {}
        found = [item for item in (*held, *workers.values(), error.__cause__) if item is not None]
        if not found or not isinstance(found[0], BaseException):
            break
        outer, error = error, found[0]
    if type(error).__name__ != _SHELL:
        return error
    return _read(str(outer)) or error


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
    if not type(error).__module__.startswith("glotok_ray"):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def _read(traceback: str) -> BaseException | None:
    """The exception before Ray's, from the text of both tracebacks."""
    blocks = _BETWEEN.split(traceback)
    if len(blocks) < 2:
        return None
    lines = blocks[-2].rstrip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    rest = lines[frames[-1] + 1 :] if frames else lines
    # Source and carets of the last frame are indented more than what follows.
    while rest and rest[0].startswith("    "):
        rest = rest[1:]
    found = _HEAD.match("\n".join(rest))
    if found is None:
        return None
    name, message = found[1], found[2] or ""
    if name in _OURS:
        return _OURS[name](message)
    return WorkerError(f"{name}: {message}" if message else name)
