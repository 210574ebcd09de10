"""The rows that a worker has learned from: the audit of keys, and the count of broken rows.

Read next: glotok_ray/training/trainer.py
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import patiently
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.metrics_file import read_lines
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

AUDIT_FOLDER = "audit"
BAD_ROWS_FOLDER = "bad_rows"


class RowsSeen:
    """Writes what this worker sees into the run folder; with the others it finds whether too much is broken."""

    def __init__(
        self,
        folder: Path,
        worker: Worker,
        max_bad_rows: int,
        *,
        audit: bool,
        first_step: int = 0,
        retry_minutes: float = 0.0,
    ) -> None:
        """`first_step` is the step of the checkpoint that the run goes on from: broken rows of before count, and those
        of later steps, which are done again, when they turn out broken again.
        """
        self._worker, self._max_bad_rows, self._minutes = worker, max_bad_rows, retry_minutes
        name = f"rank-{worker.rank:04d}.jsonl"
        self._bad_rows, self._audit = folder / BAD_ROWS_FOLDER, audit
        self._own_bad_rows, self._audit_file = self._bad_rows / name, folder / AUDIT_FOLDER / name
        patiently(
            lambda: self._forget_from(first_step),
            self._bad_rows,
            minutes=retry_minutes,
            doing="rewriting",
        )
        self._known = {line["key"] for line in _lines([self._own_bad_rows])}
        # Rank 0 knows those of workers too that are no longer there, so that no row of before goes uncounted.
        of_before = _broken_before(folder, first_step) if worker.rank == 0 else {}
        self._found = len(of_before.keys() | self._known)

    def _forget_from(self, first_step: int) -> None:
        """Drop the lines of steps that are done again: a row may have been repaired, and then counts no more."""
        paths = [self._own_bad_rows]
        if self._worker.rank == 0:
            # Each file has one writer; rank 0 stands in for workers that are no longer there.
            paths += [
                path
                for path in self._bad_rows.glob("rank-*.jsonl")
                if int(path.stem.removeprefix("rank-")) >= self._worker.world_size
            ]
        for path in paths:
            lines = list(_lines([path]))
            kept = [line for line in lines if line["step"] < first_step]
            if len(kept) < len(lines):
                with artefact.replacing(path) as temporary:
                    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, step: int, batches: Sequence[MicroBatch]) -> None:
        """Take the micro batches of a finished step."""
        if self._audit:
            keys = [key for batch in batches for key in batch.keys]
            self._append(self._audit_file, {"step": step, "keys": keys})
        for batch in batches:
            for key, reason in zip(batch.keys, batch.broken, strict=True):
                if reason and key not in self._known:
                    self._known.add(key)
                    self._found += 1
                    logger.warning("step %d: a row is left out: %s", step, reason)
                    self._append(self._own_bad_rows, {"step": step, "key": key, "reason": reason})

    @property
    def own_broken(self) -> int:
        """Different broken rows that this worker has met; of starts before this one rank 0 has those of all workers."""
        return self._found

    def check_broken(self, found: int | None = None) -> int:
        """Different broken rows of the whole run so far; every worker calls it at the same step. `found` is the sum of
        `own_broken` over the workers, where the caller has it: mostly 0, and then nothing more is exchanged.

        Raises ArtefactError, on all workers alike, when they are more than allowed.
        """
        worker = self._worker
        if found is None:
            found = int(worker.all_sum(torch.tensor(self._found, device=worker.device)))
        if not found:
            return 0
        # Another worker meets the same row in another epoch: rank 0 counts what differs.
        reasons = {
            line["key"]: line["reason"] for line in _lines(sorted(self._bad_rows.glob("*.jsonl")))
        }
        own = len(reasons) if worker.rank == 0 else 0
        count = int(worker.all_sum(torch.tensor(own, device=worker.device)))
        if count > self._max_bad_rows:
            first = next(iter(reasons.values()), "not yet on this node")
            raise ArtefactError(
                f"data.max_bad_rows = {self._max_bad_rows}: {count} different rows turned out broken, which "
                f"{self._bad_rows} names, the first: {first}; repair the "
                "shards, or allow more, and start the same command again"
            )
        return count

    def _append(self, path: Path, line: dict[str, Any]) -> None:
        patiently(artefact.line_appender(path, line), path, minutes=self._minutes, doing="writing")


def check_broken_before(folder: Path, first_step: int, max_bad_rows: int) -> None:
    """Raise ArtefactError where the steps before `first_step`, which are not done again, met more broken rows than
    allowed: all workers would say so at their first line of the log.
    """
    reasons = _broken_before(folder, first_step)
    if len(reasons) > max_bad_rows:
        raise ArtefactError(
            f"data.max_bad_rows = {max_bad_rows}: {len(reasons)} different rows turned out broken before step "
            f"{first_step}, where this run goes on, which {folder / BAD_ROWS_FOLDER} names, the first: "
            f"{next(iter(reasons.values()))}; allow more, or repair the shards and start a new run with --fresh or "
            "another --name"
        )


def _broken_before(folder: Path, step: int) -> dict[str, str]:
    """Keys of rows that turned out broken in earlier steps, over all workers, and why."""
    lines = _lines(sorted((folder / BAD_ROWS_FOLDER).glob("*.jsonl")))
    return {line["key"]: line["reason"] for line in lines if line["step"] < step}


def _lines(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from read_lines(path.read_text() if path.is_file() else "")
