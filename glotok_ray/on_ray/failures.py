"""Why an attempt at a training run failed, in one line, and whether another can go better: Ray's exceptions, unpacked.

Read next: glotok_ray/on_ray/attempts.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ray.exceptions import RayActorError, RayTaskError
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import WorkerGroupError

from glotok_ray.on_ray.causes import cause_line, innermost
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.retries import StorageError
from glotok_ray.training.preemption import NodeReclaimed
from glotok_ray.training.stalls import Stall, beats_of, read_stall

# Another attempt would meet the same; StorageError has been patient for minutes already.
FINAL_ERRORS = (ArtefactError, StorageError, FloatingPointError)
# Where Ray's exceptions keep the ones that they wrap.
_WRAPPED = ("controller_failure", "health_check_failure", "_base_exc", "cause")
# Words of the errors that the other ranks raise when one is gone.
_COLLATERAL = ("gloo", "nccl", "connection", "broken pipe", "peer", "process group")
_LONGEST_CAUSE = 400
_MOST_NAMED = 8
_FINAL_TEXT = re.compile(
    rf"^(?:\w+\.)*({'|'.join(kind.__name__ for kind in FINAL_ERRORS)}): (.+)$", re.MULTILINE
)


class Failure(NamedTuple):
    """What ended an attempt."""

    cause: str
    """One line."""
    final: Exception | None
    """One of FINAL_ERRORS, wherever it was raised; None when another attempt may go well."""
    reclaimed: bool = False
    """Whether the workers saved and left, as a node was taken back: nothing failed."""


def explain(error: BaseException, run_folder: Path, attempt: int) -> Failure:
    """The failure behind what Ray raised for an attempt at the run in `run_folder`."""
    for cause in chain(error):
        final = _final(cause)
        if final is not None:
            return Failure(one_line(str(final)), final)
    if any(isinstance(cause, NodeReclaimed) for cause in chain(error)):
        return Failure(
            "a node was taken back, and the workers left it with all state saved", None, True
        )
    stall = read_stall(run_folder, attempt)
    if stall is not None:
        return Failure(describe_stall(stall), None)
    hosts = {rank: beat.host for rank, beat in beats_of(run_folder, attempt).items()}
    return Failure(one_line(_describe(error, hosts)), None)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it wraps or follows from, nearest first."""
    waiting, seen = [error], set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, WorkerGroupError):
            waiting += found.worker_failures.values()
        waiting += [vars(found).get(name) for name in _WRAPPED]  # type: ignore[arg-type]
        waiting += [found.__cause__, found.__context__]  # type: ignore[list-item]


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line, out of whatever Ray wrapped it in; errors of this package speak for themselves."""
    return one_line(cause_line(innermost(error)))


def describe_stall(stall: Stall) -> str:
    """A stall in one line."""
    who = f"rank {', '.join(str(rank) for rank in stall.ranks[:_MOST_NAMED])}"
    if len(stall.ranks) > _MOST_NAMED:
        who += f" and {len(stall.ranks) - _MOST_NAMED} more"
    if stall.host:
        who += f" on {stall.host}"
    where = f"phase {stall.phase} of step {stall.step}" if stall.step >= 0 else "its start"
    text = f"{who} stalled in {where} for {stall.minutes:.1f} minutes"
    if not stall.runs:
        text = (
            f"{who} does not run (stopped, gone, or in one call that holds Python's lock): last seen in {where}, while "
            f"others waited for {stall.minutes:.1f} minutes"
        )
    if not stall.stacks:
        return f"{text}; it left no stack"
    return f"{text}; stack in {stall.stacks[0] if len(stall.ranks) == 1 else to_path(stall.stacks[0]).parent}"


def one_line(text: str) -> str:
    """Text without line breaks, and not endless."""
    joined = " ".join(text.split())
    return joined if len(joined) <= _LONGEST_CAUSE else joined[: _LONGEST_CAUSE - 3] + "..."


def _final(error: BaseException) -> Exception | None:
    """The exception as one of FINAL_ERRORS, if it is one or tells of one."""
    if not isinstance(error, RayTaskError):
        return error if isinstance(error, FINAL_ERRORS) else None
    # Of what a task of Ray Data raised, the text alone arrives.
    found = _FINAL_TEXT.findall(str(error))
    if not found:
        return None
    name, text = found[-1]
    return {kind.__name__: kind for kind in FINAL_ERRORS}[name](text)


def _describe(error: BaseException, hosts: dict[int, str]) -> str:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, first = min(
            error.worker_failures.items(), key=lambda item: (_order(item[1]), item[0])
        )
        host = f" on {hosts[rank]}" if rank in hosts else ""
        return f"rank {rank}{host} {_describe_worker(first)}"
    inner = vars(error).get("controller_failure")
    return f"{type(inner or error).__name__}: {inner or error}"


def _order(error: BaseException) -> int:
    """Deaths before exceptions, and exceptions before those that follow from another rank's end."""
    if isinstance(error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError):
        return 0
    text = f"{type(error).__name__} {error}".lower()
    return 2 if any(word in text for word in _COLLATERAL) else 1


def _describe_worker(error: BaseException) -> str:
    if isinstance(error, WorkerHealthCheckTimeoutError):
        return "did not answer Ray Train (stopped, or in one call that holds Python's lock)"
    if not isinstance(error, WorkerHealthCheckFailedError):
        text = f"{type(error).__name__}: {error}"
        return f"lost another rank ({text})" if _order(error) == 2 else f"raised {text}"
    inner = error.health_check_failure
    if isinstance(inner, RayActorError):
        return f"died ({_death(inner)})"
    return f"failed its health check with {type(inner).__name__}: {inner}"


def _death(error: RayActorError) -> str:
    if error.preempted:
        return "its node was reclaimed"
    text = str(error).lower()
    if "node" in text and ("died" in text or "dead" in text) and "its node" in text:
        return "its node is gone"
    if "memory pressure" in text or "out of memory" in text.split("common causes")[0]:
        return "ended by Ray, as the node ran out of memory"
    return "its process ended: a signal such as SIGKILL, or out of memory"
