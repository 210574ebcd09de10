"""One rank of tests/training/test_checkpoint_writer.py: checkpoints of two workers, good ones and failing ones.

python tests/training/two_checkpoint_workers.py FOLDER      with RANK and WORLD_SIZE set
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from two_workers import end_group, start_group

from glotok_ray.storage import artefact
from glotok_ray.storage.retries import StorageError
from glotok_ray.training.checkpoint import agreed_checkpoint, checkpoint_step
from glotok_ray.training.checkpoint_writer import CheckpointWriter
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker


def writer(folder: Path, worker: Worker, minutes: float) -> CheckpointWriter:
    return CheckpointWriter(folder, worker, facts={}, keep=9, retry_minutes=minutes)


def parts(worker: Worker) -> Any:
    """What adds two files per worker."""

    def copy_state(into: Snapshot) -> None:
        into.add_state(f"part-{worker.rank}.pt", torch.ones(1000))
        into.within("shared").add_state(f"{worker.rank}.pt", torch.ones(10))

    return copy_state


def failure(folder: Path, worker: Worker, minutes: float, change: Any) -> str:
    """The message with which a checkpoint fails whose files `change` has changed on rank 1."""
    one = writer(folder, worker, minutes)

    def copy_state(into: Snapshot) -> None:
        parts(worker)(into)
        if worker.rank == 1:
            change(into)

    one.save(1, copy_state)
    try:
        one.wait()
    except StorageError as error:
        return str(error)
    return "no error"


def fail(into: Snapshot) -> None:
    """Let the first file meet a disk that is full."""

    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    into.files["part-1.pt"] = full


def dawdle(into: Snapshot) -> None:
    """Let the first file take longer than rank 0 is patient."""
    content = into.files["part-1.pt"]
    into.files["part-1.pt"] = lambda stream: (time.sleep(3), content(stream))


def main(folder: Path) -> None:
    """Everything that the test reads."""
    worker = start_group(folder)
    answers: dict[str, Any] = {"read": []}
    one = writer(folder / "whole", worker, 1)
    for step in (1, 2):
        one.save(step, parts(worker))
        one.wait()
        written = one.take_written()
        assert (written is None) == (worker.rank > 0)
        answers["gib"] = written.gib if written else 0
    newest = folder / "whole" / "step-000000002" / "part-1.pt"
    if worker.rank == 0:
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(content)
    worker.barrier()
    read_file = artefact.sha256_of

    def noted(path: Path) -> str:
        answers["read"].append(path.relative_to(folder / "whole").as_posix())
        return read_file(path)

    artefact.sha256_of = noted
    found = agreed_checkpoint(folder / "whole", worker, retry_minutes=0)
    artefact.sha256_of = read_file
    answers["agreed"] = checkpoint_step(found)
    # Rank 0 waits twice as long as rank 1 tries: 6 seconds are left for rank 1's report.
    answers["failed"] = failure(folder / "failed", worker, 0.1, fail)
    answers["silent"] = failure(folder / "silent", worker, 0.005, dawdle)
    (folder / f"answers-{worker.rank}.json").write_text(json.dumps(answers))
    end_group(worker)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
