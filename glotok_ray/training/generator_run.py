"""A generator's training on one worker: check the codes, build model and engine, train, export.

Called by every rank under Ray Train and by a plain process alike; batches come from outside.
Read next: glotok_ray/training/trainer.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glotok_ray import artefact, config
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import FARRun, TokenizerConfig, XARRun
from glotok_ray.data.codes import COUNTS_FILE
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.nn.far import FAR
from glotok_ray.nn.generators import copy_tokenizer, save_generator
from glotok_ray.nn.tokenizer import WEIGHTS_FILE, GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.sampling.latents import latent_scale, latent_scale_from_counts
from glotok_ray.training import checkpoint
from glotok_ray.training.ema import make_average, whole_state
from glotok_ray.training.engine import make_engine
from glotok_ray.training.generator_step import (
    FlowObjective,
    GeneratorStep,
    Objective,
    TokenObjective,
)
from glotok_ray.training.runs import BatchSource, exporting, place, run_plan, set_threads
from glotok_ray.training.trainer import Trainer
from glotok_ray.training.worker import Worker


def train_generator(run: XARRun | FARRun, worker: Worker, batches: BatchSource) -> dict[str, Any]:
    """Train and export a generator; rank 0 writes its weights, their average, generator.json and the tokenizer."""
    set_threads(run.scaling.threads_per_worker)
    plan = run_plan(run)
    codes = fitting_codes(run)
    torch.manual_seed(run.seed)
    model, objective, facts = _build(run, worker)
    engine = make_engine(
        place(model, worker, run.scaling),
        run.optimizer,
        run.scaling,
        plan.micro_batch_size,
        plan.accumulation_steps,
    )
    average = make_average(engine, run.ema_decay, warmup=run.ema_warmup)
    model.train()
    figures = Trainer(GeneratorStep(engine, objective, average, worker), worker, plan).fit(batches)
    keep = worker.rank == 0
    raw = whole_state(engine, keep=keep)
    averaged = average.whole(keep=keep) if average is not None else None
    if keep:
        for state in (raw, averaged):
            if state is not None and "latent_scale" in facts:
                # A model in bf16 has rounded it, and training used it as it was measured.
                state["latent_scale"] = torch.tensor(facts["latent_scale"])
        facts |= {
            "model": config.to_dict(run.model),
            "tokenizer_sha256": codes.tokenizer_sha256,
            "classes": list(codes.classes),
        }
        with exporting(worker, plan):
            save_generator(plan.folder, raw, averaged, facts)
            copy_tokenizer(Path(run.tokenizer_path), plan.folder)
    worker.barrier()
    return figures


def fitting_codes(run: XARRun | FARRun) -> DatasetInfo:
    """The codes' facts; raises ArtefactError when they do not fit the tokenizer or the model.

    That no file has changed is the launcher's to verify, once: ten crops of ImageNet are 13 GB of codes, too many to
    be read by every worker before it begins.
    """
    folder = Path(run.data.train_path)
    codes = read_dataset(folder)
    digest = artefact.sha256_of(Path(run.tokenizer_path) / WEIGHTS_FILE)
    if codes.tokenizer_sha256 != digest:
        raise ArtefactError(
            f"{folder}: made by tokenizer {codes.tokenizer_sha256[:12]}, but "
            f"{run.tokenizer_path} is {digest[:12]}; encode again or correct tokenizer_path"
        )
    for name, (have, need) in _expected(run, codes).items():
        if have != need:
            raise ArtefactError(
                f"{name} = {have}: the codes in {folder} need {need}; pass --{name.replace('_', '-')} {need}"
            )
    if isinstance(run, FARRun):
        _check_vocabularies(run, checkpoint.tokenizer_config(Path(run.tokenizer_path)))
    return codes


def _expected(run: XARRun | FARRun, codes: DatasetInfo) -> dict[str, tuple[int, int]]:
    """What the model's config says and what the codes need, by field."""
    fields = {
        "model.grid_size": (run.model.grid_size, codes.grid_size),
        "model.num_classes": (run.model.num_classes, len(codes.classes)),
    }
    if isinstance(run, XARRun):
        channels = checkpoint.tokenizer_config(Path(run.tokenizer_path)).latent_width
        fields["model.channels"] = (run.model.channels, channels)
    return fields


def _check_vocabularies(run: FARRun, tokenizer: TokenizerConfig) -> None:
    have, need = run.model.code_counts, tokenizer.code_counts
    if have != need:
        raise ArtefactError(
            f"model.codebooks = {have}: the tokenizer {run.tokenizer_path} has {need}; take the recipe that fits, or "
            "pass --model.codebooks.0.size and its like"
        )


def _build(run: XARRun | FARRun, worker: Worker) -> tuple[nn.Module, Objective, dict[str, Any]]:
    """The model, what it learns from, and what generator.json says of both."""
    if isinstance(run, FARRun):
        return FAR(run.model), TokenObjective(run.model, run.label_dropout), {"architecture": "far"}
    tokenizer = checkpoint.load_tokenizer(Path(run.tokenizer_path))
    model = XAR(run.model)
    scale = _measured_scale(tokenizer, Path(run.data.train_path))
    model.latent_scale.copy_(scale)
    # Codes become latents on the device; encoder and decoder have no part in it and stay where they are.
    tokenizer.branches.to(worker.device)
    objective = FlowObjective(tokenizer, scale.to(worker.device), run.model, run.flow)
    facts = {
        "architecture": "xar",
        "flow": config.to_dict(run.flow),
        "latent_scale": scale.tolist(),
    }
    return model, objective, facts


def _measured_scale(tokenizer: GloTokTokenizer, codes: Path) -> Tensor:
    with np.load(codes / COUNTS_FILE, allow_pickle=False) as counts:
        scales = [
            latent_scale_from_counts(
                tokenizer.quantizer(name).matched_codes().cpu(), torch.from_numpy(counts[name])
            )
            for name in tokenizer.config.names
        ]
    return latent_scale(scales, tokenizer.config)
