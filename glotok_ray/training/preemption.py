"""The notice that a node is about to be taken back: a file on the node, which its workers look at once per step.

Read next: glotok_ray/on_ray/preemption_agent.py, which writes it
"""

import os
import tempfile
from pathlib import Path

VARIABLE = "GLOTOK_PREEMPTION_NOTICE"
"""Environment variable with the file's path; without it, it lies in the node's folder of temporary files."""


def notice_path() -> Path:
    """Where this node's notice lies, if there is one."""
    default = Path(tempfile.gettempdir()) / "glotok_preemption_notice.json"
    return Path(os.environ.get(VARIABLE) or default)


class NodeReclaimed(RuntimeError):  # noqa: N818 - nothing has gone wrong
    """Raised on all workers when their state is saved and the node of one is about to go."""


class PreemptionNotice:
    """Tells of each notice once; one that was there before this was made has been heeded by another process."""

    def __init__(self) -> None:
        self._path = notice_path()
        self._seen = self._stamp()

    def is_new(self) -> bool:
        """Whether a notice has come since the last call; costs microseconds."""
        stamp = self._stamp()
        new = stamp > self._seen
        self._seen = stamp
        return new

    def _stamp(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0
