"""The cluster's object store while a training runs: the most it held, and what it spilled to disk.

Read next: glotok_ray/training/data_facts.py
"""

import logging
import threading
from typing import NamedTuple

from ray._private import internal_api, state

logger = logging.getLogger(__name__)

_GIB = 2.0**30
_TIMEOUT_S = 10.0


class StoreBytes(NamedTuple):
    """Of the stores of all nodes."""

    used: int
    spilled: int
    """Since the cluster began."""


def store_bytes() -> StoreBytes:
    """What the stores hold now; raises what Ray raises where it does not answer."""
    reply = internal_api.get_memory_info_reply(state.state, timeout_seconds=_TIMEOUT_S)
    stats = reply.store_stats
    return StoreBytes(stats.object_store_bytes_used, stats.spilled_bytes_total)


class StoreWatch:
    """Asks in a thread of its own, until it is closed; a cluster that does not answer costs the figures alone."""

    def __init__(self, every_s: float = 2.0) -> None:
        self._every_s = every_s
        self._stopped = threading.Event()
        self._facts: dict[str, float] = {}
        threading.Thread(target=self._watch, name="store", daemon=True).start()

    def facts(self) -> dict[str, float]:
        """GiB of the stores: "store_peak_gib" since this was made, "spilled_gib" where some were since then."""
        return dict(self._facts)

    def close(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _watch(self) -> None:
        peak, before = 0, None
        while True:
            try:
                found = store_bytes()
            # It is Ray's own interface, and figures are not worth a training.
            except Exception as error:
                logger.warning("the object store does not tell what it holds: %s", error)
                return
            peak = max(peak, found.used)
            before = found.spilled if before is None else before
            spilled = (found.spilled - before) / _GIB
            facts = {"store_peak_gib": peak / _GIB}
            self._facts = facts | ({"spilled_gib": spilled} if spilled > 0 else {})
            if self._stopped.wait(self._every_s):
                return
