"""What a run leaves on disk: checkpoints that are verified before use, and exported models.

A checkpoint is written beside its place, gets its manifest (sha256 of every file) last and is then renamed;
one that is unfinished or damaged is passed over with a warning. Weights travel as safetensors.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glotok_ray import artefact, config
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import TokenizerConfig, XARConfig
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder` whose manifest verifies, None when there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            artefact.read_manifest(path, "checkpoint")
        except ArtefactError as error:
            logger.warning("checkpoint passed over: %s", error)
            continue
        return path
    return None


def checkpoint_step(path: Path | None) -> int:
    """Optimizer steps done when the checkpoint was written; 0 without one."""
    return int(path.name.removeprefix("step-")) if path else 0


def save_checkpoint(
    folder: Path, step: int, worker: Worker, write: Callable[[Path], None], *, keep: int
) -> None:
    """Let every worker `write` into one new checkpoint, commit it and remove all but the newest `keep`."""
    final = folder / f"step-{step:09d}"
    partial = folder / f".{final.name}.partial"
    if worker.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    worker.barrier()
    write(partial)
    worker.barrier()
    if worker.rank == 0:
        artefact.write_manifest(partial, "checkpoint", step=step, world_size=worker.world_size)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
    worker.barrier()


def save_model(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, in fp32 and contiguous."""
    tensors = {
        name: (value.detach().float() if value.is_floating_point() else value.detach())
        .cpu()
        .contiguous()
        .clone()
        for name, value in state.items()
    }
    save_file(tensors, str(path))


def _load_model(model: nn.Module, path: Path) -> None:
    try:
        state = load_file(str(path))
    except Exception as error:  # safetensors raises its own untyped errors for damaged headers
        raise ArtefactError(
            f"{path}: not readable as safetensors ({error}); export the model again"
        ) from error
    missing = sorted(set(model.state_dict()) ^ set(state))
    if missing:
        raise ArtefactError(
            f"{path}: its tensors do not fit the config beside it (first difference: {missing[0]}); export both again"
        )
    model.load_state_dict(state)


def save_tokenizer(folder: Path, model: GloTokTokenizer, model_config: TokenizerConfig) -> None:
    """Write tokenizer.safetensors and tokenizer.json; the caller writes the manifest."""
    save_model(folder / "tokenizer.safetensors", model.state_dict())
    artefact.write_json(folder / "tokenizer.json", config.to_dict(model_config))


def load_tokenizer(folder: Path) -> GloTokTokenizer:
    """The frozen tokenizer of a finished tokenizer folder, on the CPU, in evaluation mode."""
    artefact.read_manifest(folder, "tokenizer")
    model_config = config.from_dict(TokenizerConfig, artefact.read_json(folder / "tokenizer.json"))
    model = GloTokTokenizer(model_config)
    _load_model(model, folder / "tokenizer.safetensors")
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def save_generator(
    folder: Path, raw: dict[str, Tensor], averaged: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    """Write both sets of weights and generator.json (`facts`); the caller writes the manifest."""
    save_model(folder / "generator.safetensors", raw)
    save_model(folder / "generator_ema.safetensors", averaged)
    artefact.write_json(folder / "generator.json", facts)


def load_generator(folder: Path, *, use_ema: bool) -> XAR:
    """The frozen generator of a finished generator folder, on the CPU, in evaluation mode."""
    artefact.read_manifest(folder, "generator")
    model = XAR(config.from_dict(XARConfig, artefact.read_json(folder / "generator.json")["model"]))
    _load_model(
        model, folder / ("generator_ema.safetensors" if use_ema else "generator.safetensors")
    )
    return model.requires_grad_(False).eval()
