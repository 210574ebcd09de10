"""A tokenizer's training on one worker: build models, frozen and engines, train, export.

Called by every rank under Ray Train and by a plain process alike; batches come from outside.
Read next: glotok_ray/training/trainer.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glotok_ray.config.losses import RelationConfig
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.data.recorded import crops_text
from glotok_ray.interop.tokenizer_card import write_model_card
from glotok_ray.losses.relation import codebook_histogram, histogram_bins, relation_loss
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.perceptual import build_perceptual
from glotok_ray.pretrained.tokenizer import DISCRIMINATOR_FILE, WEIGHTS_FILE
from glotok_ray.storage import artefact
from glotok_ray.storage.optional_files import optional_file
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import load_weights
from glotok_ray.teacher.image_vectors import build_image_network
from glotok_ray.training.engine import make_engine
from glotok_ray.training.inputs import teacher_of
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.operations import tokenizer_operations, utilization_of
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.runs import BatchSource, exporting, place, set_threads
from glotok_ray.training.tokenizer_state import TokenizerState
from glotok_ray.training.tokenizer_step import FrozenNetworks, TokenizerStep
from glotok_ray.training.trainer import Trainer
from glotok_ray.training.validation import TokenizerValidation, validation_images
from glotok_ray.training.worker import Worker

RELATION_FILE = "relation.json"


def train_tokenizer(
    config: TokenizerRun, plan: RunPlan, worker: Worker, batches: BatchSource
) -> dict[str, Any]:
    """Train and export a tokenizer; rank 0 writes its weights, config, model card and relation.json."""
    set_threads(config.scaling.threads_per_worker)
    torch.manual_seed(config.seed)
    model, discriminator = GloTokTokenizer(config.model), PatchDiscriminator(config.discriminator)
    _start_from(config.initial_path, model, discriminator)
    frozen = build_frozen_networks(config, worker.device)
    with torch.no_grad():
        initial = _histogram(model, config.loss.relation) if frozen.teacher is not None else None
    # Counted while the weights are whole.
    utilization = utilization_of(
        plan, worker.device, lambda: tokenizer_operations(config, model, discriminator, frozen)
    )
    tokenizer_engine, discriminator_engine = (
        make_engine(
            place(module, worker, config.scaling),
            config.optimizer,
            config.scaling,
            plan.micro_batch_size,
            plan.accumulation_steps,
        )
        for module in (model, discriminator)
    )
    state = TokenizerState(config, tokenizer_engine, discriminator_engine, worker)
    step = TokenizerStep(state, frozen, worker)
    validation = TokenizerValidation(
        state, frozen.teacher, validation_images(config, worker), worker
    )
    model.train()
    Trainer(step, state, worker, plan, validation.evaluate, utilization).fit(batches)
    metrics = last_metrics(plan.folder)
    with exporting(worker, plan):
        state.export(plan.folder)
        if worker.rank == 0:
            if initial is not None and frozen.teacher is not None:
                exported = GloTokTokenizer.from_pretrained(plan.folder)
                final = _histogram(exported, config.loss.relation)
                _write_relation(plan.folder, config.loss.relation, frozen.teacher, (initial, final))
            origin = f"trained by the run {config.name!r} on {crops_text(plan.dataset)}"
            write_model_card(plan.folder, config.model, metrics, source=origin)
    worker.barrier()
    return metrics


def build_frozen_networks(config: TokenizerRun, device: torch.device) -> FrozenNetworks:
    """The frozen networks and the teacher of a run, on `device`."""
    dtype = torch.float32 if config.scaling.precision == "fp32" else torch.bfloat16
    teacher = None
    if config.teacher_path:
        teacher = teacher_of(config).distribution(config.loss.relation).to(device)

    def frozen(network: nn.Module) -> nn.Module:
        return network.requires_grad_(False).eval().to(device, dtype)

    return FrozenNetworks(
        perceptual=frozen(build_perceptual(config.loss)),
        teacher=teacher,
        image_networks={
            codebook.name: frozen(build_image_network(codebook.contrast))
            for codebook in config.model.codebooks
            if codebook.contrast.network
        },
    )


def _start_from(path: str, model: nn.Module, discriminator: nn.Module) -> None:
    if path:
        load_weights(model, to_path(path) / WEIGHTS_FILE)
        judge = optional_file(to_path(path), DISCRIMINATOR_FILE)
        if judge:
            load_weights(discriminator, judge)


def _histogram(model: GloTokTokenizer, relation: RelationConfig) -> Tensor:
    # Eq. 4 is about cosines whatever the look-up compares.
    codebook = model.quantizer(relation.codebook).matched_codes().detach()
    return codebook_histogram(codebook, relation).cpu()


def _write_relation(
    folder: Path, relation: RelationConfig, teacher: Tensor, students: tuple[Tensor, Tensor]
) -> None:
    """The histograms of the relation loss before and after training, for the report."""
    teacher = teacher.cpu()
    values: dict[str, Any] = {
        "bins": histogram_bins(relation.num_bins).tolist(),
        "teacher": teacher.tolist(),
    }
    for name, student in zip(("initial", "final"), students, strict=True):
        values[f"student_{name}"] = student.tolist()
        values[f"kl_{name}"] = float(relation_loss(student, teacher, reduction=relation.reduction))
    artefact.write_json(folder / RELATION_FILE, values)
