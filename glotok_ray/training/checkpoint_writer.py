"""Checkpoints written while the run trains on: hashed as they are written, committed when all workers are done.

Each worker copies its state to host memory, which is all that training waits for, and writes it in a thread. The thread
takes part in no collective: workers tell each other through small files beside their parts.
Read next: glotok_ray/training/checkpoint.py
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glotok_ray.storage import artefact
from glotok_ray.storage.places import is_remote, move_tree, remove_tree
from glotok_ray.storage.retries import StorageError, patiently
from glotok_ray.training.checkpoint import checkpoint_path, partial_path
from glotok_ray.training.memory import GIB
from glotok_ray.training.snapshot import Content, HostMemory, Snapshot
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1

Files = dict[str, dict[str, Any]]
"""Bytes and sha256 by file name, as in a manifest."""


@dataclass(frozen=True)
class Written:
    """A checkpoint that is committed."""

    step: int
    seconds: float
    """From the copy to the commit."""
    gib: float
    """Of all workers' files."""


class CheckpointWriter:
    """Writes a run's checkpoints, one at a time."""

    def __init__(
        self,
        folder: Path,
        worker: Worker,
        *,
        facts: dict[str, Any],
        keep: int,
        retry_minutes: float,
    ) -> None:
        """`facts` go into each manifest; `keep` checkpoints stay on disk; `retry_minutes` is how long storage may be
        away, and how much longer than that rank 0 waits for the parts of other workers.
        """
        self._folder, self._worker = folder, worker
        self._facts, self._keep, self._minutes = facts, keep, retry_minutes
        self._memory = HostMemory()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._written: Written | None = None
        self._step = 0

    def save(self, step: int, copy_state: Callable[[Snapshot], None]) -> float:
        """Copy what `copy_state` adds to a snapshot and begin to write it as the checkpoint of `step`.

        Returns the seconds that training waited: for the checkpoint before, if it was still being written, and for the
        copy. Every worker must call it. Raises what `wait` raises.
        """
        start = time.monotonic()
        self.wait()
        snapshot = Snapshot(self._memory)
        self._worker.heartbeat.fault_point("checkpoint_copy", step)
        copy_state(snapshot)
        snapshot.complete()
        # Daemon: a worker that has failed must not linger for what others may never write.
        self._thread = threading.Thread(
            target=self._run, args=(step, snapshot.files), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()
        return time.monotonic() - start

    def wait(self) -> None:
        """Wait until what was begun is committed; every worker must call it.

        When one worker failed, all raise: that one its own error, the others a StorageError that names it.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        failed = torch.zeros(self._worker.world_size, device=self._worker.device)
        failed[self._worker.rank] = float(self._error is not None)
        workers = torch.nonzero(self._worker.all_sum(failed)).flatten().tolist()
        if self._error is not None:
            raise self._error
        if workers:
            raise StorageError(
                f"{self._folder}: worker {', '.join(map(str, workers))} could not write its part of a checkpoint; its "
                "log says why"
            )

    def end(self) -> None:
        """Wait for this worker's own thread alone; for one that ends early, so that nothing is written after it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take_written(self) -> Written | None:
        """The last committed checkpoint, once, and on rank 0 alone; None while there is nothing new."""
        written = self._written
        # Not unseen: the thread may put one there at any moment.
        if written is not None:
            self._written = None
        return written

    def _run(self, step: int, contents: dict[str, Content]) -> None:
        start, self._step = time.monotonic(), step
        partial = partial_path(self._folder, step)
        try:
            files = self._write_part(partial, contents)
            self._worker.heartbeat.fault_point("checkpoint_written", step)
            if self._worker.rank == 0:
                gib = self._commit(step, partial, files)
                self._written = Written(step, time.monotonic() - start, gib)
        except Exception as error:
            logger.error("the checkpoint of step %d is not written: %s", step, error)
            self._error = error
            if self._worker.rank:
                with contextlib.suppress(OSError):
                    artefact.write_json(
                        _report_path(partial, self._worker.rank), {"error": str(error)}
                    )

    def _write_part(self, partial: Path, contents: dict[str, Content]) -> Files:
        """Write this worker's files and, last, the report that says so."""
        files: Files = {}
        for name, content in contents.items():

            def write(path: Path = partial / name, content: Content = content) -> dict[str, Any]:
                path.parent.mkdir(parents=True, exist_ok=True)
                with artefact.hashed_writer(path) as stream:
                    content(stream)
                    self._worker.heartbeat.fault_point("checkpoint_write", self._step)
                    stream.sync()
                return {"bytes": stream.bytes, "sha256": stream.sha256}

            files[name] = self._patiently(write, partial / name)
        if self._worker.rank:
            report = _report_path(partial, self._worker.rank)
            self._patiently(lambda: artefact.write_json(report, {"files": files}), report)
        return files

    def _commit(self, step: int, partial: Path, files: Files) -> float:
        """Wait for the others, write the manifest, rename, remove what is old; returns the GiB of all files."""
        files = files | self._files_of_others(partial)
        final = checkpoint_path(self._folder, step)

        def publish() -> None:
            if not partial.exists():  # renamed already, though the answer was lost
                return
            _expect(partial, files)
            known = {name: (facts["bytes"], facts["sha256"]) for name, facts in files.items()}
            artefact.write_manifest(partial, "checkpoint", known=known, step=step, **self._facts)
            self._worker.heartbeat.fault_point("checkpoint_commit", step)
            for report in partial.glob(".rank-*.json"):
                report.unlink()
            for path in (partial / artefact.MANIFEST, *_folders(partial)):
                _sync(path)
            remove_tree(final, ignore_errors=True)
            move_tree(partial, final)
            _sync(self._folder)
            self._worker.heartbeat.fault_point("checkpoint_committed", step)

        self._patiently(publish, partial)
        self._patiently(lambda: self._remove_old(final), self._folder)
        return sum(facts["bytes"] for facts in files.values()) / GIB

    def _files_of_others(self, partial: Path) -> Files:
        """What the other workers report; raises StorageError that names those that failed or do not report."""
        files: Files = {}
        missing = set(range(1, self._worker.world_size))
        # Twice: another worker's storage may come back at the end of its own patience, and then it still has to write.
        deadline = time.monotonic() + 2 * 60 * self._minutes
        while missing:
            for rank in sorted(missing):
                path = _report_path(partial, rank)
                if not path.is_file():
                    continue
                report = artefact.read_json(path)
                if "error" in report:
                    raise StorageError(f"{partial}: worker {rank} failed: {report['error']}")
                files |= report["files"]
                missing.remove(rank)
            if missing and time.monotonic() > deadline:
                raise StorageError(
                    f"{partial}: worker {', '.join(map(str, sorted(missing)))} wrote no part of it within "
                    f"{2 * self._minutes:g} minutes of rank 0's; look at its log and at the storage on its node"
                )
            if missing:
                time.sleep(_LOOK_EVERY_S)
        return files

    def _remove_old(self, newest: Path) -> None:
        """Keep the newest ones up to `newest`; later ones are damaged, since a run came back behind them."""
        found = sorted(self._folder.glob("step-*"))
        place = found.index(newest) + 1
        for other in found[: max(0, place - self._keep)] + found[place:]:
            remove_tree(other)

    def _patiently(self, action: Callable[[], Any], path: Path) -> Any:
        return patiently(action, path, minutes=self._minutes, doing="writing")


def _report_path(partial: Path, rank: int) -> Path:
    return partial / f".rank-{rank:04d}.json"


def _expect(partial: Path, files: Files) -> None:
    """Raise OSError where a file does not look as its worker wrote it; a shared file system may show it later."""
    for name, facts in files.items():
        found = (partial / name).stat().st_size
        if found != facts["bytes"]:
            raise OSError(
                f"{partial / name} has {found} bytes, and its worker wrote {facts['bytes']}"
            )


def _folders(path: Path) -> list[Path]:
    return [path, *(inner for inner in path.rglob("*") if inner.is_dir())]


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk; what a store has answered to is."""
    if is_remote(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
