"""What a run leaves on disk: checkpoints that are verified before use, and its tokenizer.

A checkpoint is written beside its place, gets its manifest (sha256 of every file) last and is then renamed;
one that is unfinished or damaged is passed over with a warning. Read next: glotok_ray/training/checkpoint_writer.py
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import remove_tree
from glotok_ray.storage.retries import patiently
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"
"""In a run's folder."""
_KIND = "checkpoint"
# Each reads and hashes one file at a time, beside Python's lock.
_READERS = 4


def newest_checkpoint(
    folder: Path, *, verify: bool = True, before: int | None = None
) -> Path | None:
    """The checkpoint of the highest step in `folder`, below `before` where it is given, that is whole; None when there
    is none. Those that are not are passed over with a warning.

    Without `verify`, manifest, names and sizes must agree, and no file is read.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        if before is not None and checkpoint_step(path) >= before:
            continue
        try:
            _check_sizes(path)
            if verify:
                artefact.read_manifest(path, _KIND, every_byte=True)
        except ArtefactError as error:
            _warn(error)
            continue
        return path
    return None


def agreed_checkpoint(folder: Path, worker: Worker, *, retry_minutes: float) -> Path | None:
    """The newest checkpoint that is whole, the same on every worker; None when there is none.

    The workers share its bytes out among them, so that all of them together read each once. Rank 0 first removes what
    an attempt that died was writing.
    """
    before: int | None = None
    if worker.rank == 0:
        for path in folder.glob(".step-*.partial"):
            remove_tree(path)
    while True:
        # Rank 0 alone lists the folder: a shared file system may show another list elsewhere.
        step = _step_before(folder, before, retry_minutes) if worker.rank == 0 else 0
        before = int(worker.all_sum(torch.tensor(step, device=worker.device)))
        if not before:
            return None
        path = checkpoint_path(folder, before)
        damaged = torch.tensor(_damaged_files(path, worker, retry_minutes), device=worker.device)
        if not int(worker.all_sum(damaged)):
            return path


def _step_before(folder: Path, before: int | None, retry_minutes: float) -> int:
    """The step of the newest checkpoint below `before` whose sizes are right; 0 without one."""

    def look() -> Path | None:
        return newest_checkpoint(folder, verify=False, before=before)

    return checkpoint_step(patiently(look, folder, minutes=retry_minutes))


def _damaged_files(path: Path, worker: Worker, retry_minutes: float) -> int:
    """How many files of this worker's share are not what the manifest says; each is named in a warning."""
    try:
        files = patiently(lambda: _check_sizes(path), path, minutes=retry_minutes)
    except ArtefactError as error:
        _warn(error)
        return 1

    def is_damaged(name: str) -> bool:
        file = path / name
        digest = patiently(lambda: artefact.sha256_of(file), file, minutes=retry_minutes)
        if digest != files[name]["sha256"]:
            _warn(f"{file}: differs from its sha256 in {artefact.MANIFEST}")
        return digest != files[name]["sha256"]

    share = _shares(files, worker.world_size)[worker.rank]
    with ThreadPoolExecutor(_READERS) as readers:
        return sum(readers.map(is_damaged, share))


def _shares(files: Mapping[str, Mapping[str, Any]], num_workers: int) -> list[list[str]]:
    """File names for each worker, about equal in bytes, the largest first; alike on every worker."""
    shares: list[list[str]] = [[] for _ in range(num_workers)]
    loads = [0] * num_workers
    for name in sorted(files, key=lambda name: (-files[name]["bytes"], name)):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += files[name]["bytes"]
    return shares


def _check_sizes(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The files of a checkpoint by its manifest; raises ArtefactError where a name or a size is not as it says."""
    manifest = artefact.stated_manifest(path)
    files = manifest["files"]
    if manifest["kind"] != _KIND:
        raise ArtefactError(f"{path / artefact.MANIFEST}: is not the manifest of a {_KIND}")
    for name, facts in files.items():
        file = path / name
        if not file.is_file():
            raise ArtefactError(f"{file}: listed in {artefact.MANIFEST} but missing")
        if file.stat().st_size != facts["bytes"]:
            raise ArtefactError(
                f"{file}: differs from its sha256 in {artefact.MANIFEST}: holds {file.stat().st_size} bytes, not "
                f"{facts['bytes']}"
            )
    return files


def _warn(problem: object) -> None:
    logger.warning("checkpoint passed over: %s", problem)


def checkpoint_step(path: Path | None) -> int:
    """Optimizer steps done when the checkpoint was written; 0 without one."""
    return int(path.name.removeprefix("step-")) if path else 0


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in `folder`."""
    return folder / f"step-{step:09d}"


def partial_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is written."""
    return folder / f".{checkpoint_path(folder, step).name}.partial"


def check_state_layout(path: Path, plan: RunPlan) -> None:
    """Raise ArtefactError when the checkpoint at `path` was saved under a layout that the plan does not have."""
    saved = artefact.stated_manifest(path).get("state_layout", {})
    if "checkpoint.format" not in saved:
        raise ArtefactError(
            f"{path}: saved by an older version of this package, in parts that belong to its workers; go on with that "
            "version, or start a new run under another --name (in jobs.train_tokenizer from its weights: "
            f"--initial-path {path})"
        )
    check_same_layout(path, saved, plan)


def check_same_layout(path: Path, saved: Mapping[str, Any], plan: RunPlan) -> None:
    """Raise ArtefactError when what is `saved` at `path` has another layout than the plan."""
    for name, value in plan.state_layout.items():
        if saved.get(name) != value:
            raise ArtefactError(
                f"{path}: saved with {name} = {saved.get(name)}, and this run has {value}; set it back, or start a new "
                f"run under another --name (in jobs.train_tokenizer from its weights: --initial-path {path})"
            )
