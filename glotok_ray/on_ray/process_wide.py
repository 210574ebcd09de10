"""Changes of the whole process that trainings make which may run side by side: the last one that leaves undoes them.

Read next: glotok_ray/on_ray/train.py
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

_lock = threading.RLock()
_streams: list[TextIO] = []
_before: list[Any] = []
_users: dict[str, int] = {}


class _Newest:
    """In the place of stdout: the stream that was given last."""

    def __getattr__(self, name: str) -> Any:
        # Whoever kept it, such as a log handler, may write when all have left.
        with _lock:
            stream = _streams[-1] if _streams else sys.stdout
        return getattr(stream, name)


@contextlib.contextmanager
def stdout_to(stream: TextIO) -> Iterator[None]:
    """What is printed goes to `stream`; of several, in whatever threads, to the one that began last."""
    with _lock:
        _streams.append(stream)
        if len(_streams) == 1:
            _before.append(sys.stdout)
            sys.stdout = _Newest()  # type: ignore[assignment]
    try:
        yield
    finally:
        with _lock:
            if len(_streams) == 1:
                sys.stdout = _before.pop()
            _streams.remove(stream)


@contextlib.contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """The environment's variable has the value, that of the first where several ask; one that is set already stays."""
    with _lock:
        is_ours = name in _users or name not in os.environ
        if is_ours:
            os.environ.setdefault(name, value)
            _users[name] = _users.get(name, 0) + 1
    try:
        yield
    finally:
        with _lock:
            if is_ours:
                _users[name] -= 1
                if not _users[name]:
                    del _users[name], os.environ[name]
