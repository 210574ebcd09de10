"""A generator's training on one worker: check the codes, build model and engine, train, export.

Called by every rank under Ray Train and by a plain process alike; batches come from outside.
Read next: glotok_ray/training/trainer.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glotok_ray.config.overrides import to_dict
from glotok_ray.config.runs import AnyGeneratorRun, FARRun, RQRun, VARRun
from glotok_ray.data.records import DatasetInfo
from glotok_ray.nn.far import FAR
from glotok_ray.nn.next_scale import ScaleTokenizer
from glotok_ray.nn.rq_transformer import ResidualTokenizer, RQTransformer
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.var import VAR
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.generator import copy_tokenizer, save_generator
from glotok_ray.pretrained.tokenizer import load_any_tokenizer, load_glotok_tokenizer
from glotok_ray.sampling.latents import latent_scale, latent_scale_from_counts
from glotok_ray.storage.places import to_path
from glotok_ray.training.ema import make_average, whole_state
from glotok_ray.training.engine import make_engine
from glotok_ray.training.generator_state import GeneratorState
from glotok_ray.training.generator_step import (
    FlowObjective,
    GeneratorStep,
    Objective,
    ResidualObjective,
    ScaleObjective,
    TokenObjective,
)
from glotok_ray.training.inputs import read_counts
from glotok_ray.training.operations import generator_operations, utilization_of
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.runs import BatchSource, exporting, place, set_threads
from glotok_ray.training.trainer import Trainer
from glotok_ray.training.worker import Worker


def train_generator(
    config: AnyGeneratorRun, plan: RunPlan, worker: Worker, batches: BatchSource
) -> dict[str, Any]:
    """Train and export a generator; rank 0 writes its weights, their average, generator.json and the tokenizer.

    That codes, tokenizer and model fit each other is the launcher's to check (training/inputs.py).
    """
    set_threads(config.scaling.threads_per_worker)
    codes = plan.dataset
    torch.manual_seed(config.seed)
    model, objective, facts = _build(config, worker, plan)
    # Counted while the weights are whole.
    utilization = utilization_of(plan, worker.device, lambda: generator_operations(config, model))
    engine = make_engine(
        place(model, worker, config.scaling),
        config.optimizer,
        config.scaling,
        plan.micro_batch_size,
        plan.accumulation_steps,
    )
    average = make_average(engine, config.ema_decay, warmup=config.ema_warmup)
    model.train()
    facts |= {
        "model": to_dict(config.model),
        "tokenizer_sha256": codes.tokenizer_sha256,
        "classes": list(codes.classes),
    }
    is_evaluated = config.checkpoint_evaluation.every_steps > 0
    state = GeneratorState(engine, average, worker, exported=facts if is_evaluated else None)
    # Generators are measured by their samples, in a process or a job of their own.
    step = GeneratorStep(state, objective, worker)
    metrics = Trainer(step, state, worker, plan, utilization=utilization).fit(batches)
    keep = worker.rank == 0
    raw = whole_state(engine, keep=keep)
    averaged = average.whole(keep=keep) if average is not None else None
    if keep:
        for state in (raw, averaged):
            if state is not None and "latent_scale" in facts:
                # A model in bf16 has rounded it, and training used it as it was measured.
                state["latent_scale"] = torch.tensor(facts["latent_scale"])
        with exporting(worker, plan):
            save_generator(plan.folder, raw, averaged, facts)
            copy_tokenizer(to_path(config.tokenizer_path), plan.folder)
    worker.barrier()
    return metrics


def _build(
    config: AnyGeneratorRun, worker: Worker, plan: RunPlan
) -> tuple[nn.Module, Objective, dict[str, Any]]:
    """The model, what it learns from, and what generator.json says of both."""
    codes = plan.dataset
    if isinstance(config, FARRun):
        return (
            FAR(config.model),
            TokenObjective(config.model, config.label_dropout, config.code_noise),
            {"architecture": "far"},
        )
    if isinstance(config, VARRun):
        scales = load_any_tokenizer(to_path(config.tokenizer_path))
        assert isinstance(scales, ScaleTokenizer)
        return (
            VAR(config.model),
            ScaleObjective(
                scales.to(worker.device),
                config.model,
                list(codes.code_counts),
                config.label_dropout,
                total_steps=plan.total_steps,
            ),
            {"architecture": "var"},
        )
    if isinstance(config, RQRun):
        residuals = load_any_tokenizer(to_path(config.tokenizer_path))
        assert isinstance(residuals, ResidualTokenizer)
        (name,) = codes.code_counts
        codebook = residuals.codebook.to(worker.device)
        return (
            RQTransformer(config.model),
            ResidualObjective(codebook, config.model, name),
            {"architecture": "rq"},
        )
    tokenizer = load_glotok_tokenizer(to_path(config.tokenizer_path))
    model = XAR(config.model)
    scale = _measured_scale(tokenizer, to_path(config.data.train_path), codes)
    model.latent_scale.copy_(scale)
    # Codes become latents on the device; encoder and decoder have no part in it and stay where they are.
    tokenizer.branches.to(worker.device)
    objective = FlowObjective(tokenizer, scale.to(worker.device), config.model, config.flow)
    facts = {
        "architecture": "xar",
        "flow": to_dict(config.flow),
        "latent_scale": scale.tolist(),
    }
    return model, objective, facts


def _measured_scale(tokenizer: GloTokTokenizer, folder: Path, codes: DatasetInfo) -> Tensor:
    counts = read_counts(folder, codes)
    scales = [
        latent_scale_from_counts(
            tokenizer.quantizer(name).matched_codes().cpu(), torch.from_numpy(counts[name])
        )
        for name in tokenizer.config.names
    ]
    return latent_scale(scales, tokenizer.config)
