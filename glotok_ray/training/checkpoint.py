"""What a run leaves on disk: checkpoints that are verified before use, and its tokenizer.

A checkpoint is written beside its place, gets its manifest (sha256 of every file) last and is then renamed;
one that is unfinished or damaged is passed over with a warning.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glotok_ray import artefact, config
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import TokenizerConfig
from glotok_ray.nn.tokenizer import CONFIG_FILE, GloTokTokenizer
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: Path, *, verify: bool = True) -> Path | None:
    """The checkpoint of the highest step in `folder` whose manifest verifies, None when there is none.

    Without `verify` it is enough that it has a manifest, and its files are not read.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            if verify:
                artefact.read_manifest(path, "checkpoint", every_byte=True)
            else:
                artefact.read_json(path / artefact.MANIFEST)
        except ArtefactError as error:
            logger.warning("checkpoint passed over: %s", error)
            continue
        return path
    return None


def checkpoint_step(path: Path | None) -> int:
    """Optimizer steps done when the checkpoint was written; 0 without one."""
    return int(path.name.removeprefix("step-")) if path else 0


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in `folder`."""
    return folder / f"step-{step:09d}"


def save_checkpoint(
    folder: Path,
    step: int,
    worker: Worker,
    write: Callable[[Path], None],
    *,
    facts: dict[str, Any],
    keep: int,
) -> None:
    """Let every worker `write` into one new checkpoint, commit it with `facts` in its manifest and remove all but the
    newest `keep`; those of later steps go too, since a run that came back here found them damaged.
    """
    final = checkpoint_path(folder, step)
    partial = folder / f".{final.name}.partial"
    if worker.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    worker.barrier()
    write(partial)
    worker.barrier()
    if worker.rank == 0:
        artefact.write_manifest(partial, "checkpoint", step=step, **facts)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        found = sorted(folder.glob("step-*"))
        place = found.index(final) + 1
        for other in found[: max(0, place - keep)] + found[place:]:
            shutil.rmtree(other)
    worker.barrier()


def tokenizer_config(folder: Path) -> TokenizerConfig:
    """The model's config in a tokenizer's folder."""
    return config.from_dict(TokenizerConfig, artefact.read_json(folder / CONFIG_FILE)["model"])


def load_tokenizer(folder: Path) -> GloTokTokenizer:
    """The frozen tokenizer of a finished tokenizer folder whose manifest verifies, on the CPU, in evaluation mode."""
    artefact.read_manifest(folder, "tokenizer")
    return GloTokTokenizer.from_pretrained(folder)
