"""A generator's training on one worker: check the codes, build model and engine, train, export.

Called by every rank under Ray Train and by a plain process alike; batches come from outside.
Read next: glotok_ray/training/trainer.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glotok_ray import artefact, config
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import GeneratorRun
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.nn.tokenizer import WEIGHTS_FILE, GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.sampling.latents import latent_scale, latent_scale_from_counts
from glotok_ray.training import checkpoint
from glotok_ray.training.ema import whole_state
from glotok_ray.training.engine import make_engine
from glotok_ray.training.generator_step import GeneratorStep
from glotok_ray.training.runs import BatchSource, place, run_plan, set_threads
from glotok_ray.training.trainer import Trainer
from glotok_ray.training.worker import Worker


def train_generator(run: GeneratorRun, worker: Worker, batches: BatchSource) -> dict[str, Any]:
    """Train and export a generator; rank 0 writes both sets of weights and generator.json."""
    set_threads(run.scaling.threads_per_worker)
    plan = run_plan(run)
    codes = check_codes(run)
    tokenizer = checkpoint.load_tokenizer(Path(run.tokenizer_path)).to(worker.device)
    torch.manual_seed(run.seed)
    model = place(XAR(run.model), worker, run.scaling)
    model.latent_scale.copy_(_measured_scale(tokenizer, Path(run.data.train_path)))
    engine = make_engine(
        model, run.optimizer, run.scaling, plan.micro_batch_size, plan.accumulation_steps
    )
    step = GeneratorStep(engine, tokenizer, run.flow, run.ema_decay, worker)
    model.train()
    figures = Trainer(step, worker, plan).fit(batches)
    keep = worker.rank == 0
    raw, averaged = whole_state(engine, keep=keep), step.average.whole(keep=keep)
    if keep:
        facts = {
            "model": config.to_dict(run.model),
            "flow": config.to_dict(run.flow),
            "tokenizer_sha256": artefact.sha256_of(Path(run.tokenizer_path) / WEIGHTS_FILE),
            "classes": list(codes.classes),
        }
        checkpoint.save_generator(plan.folder, raw, averaged, facts)
    worker.barrier()
    return figures


def check_codes(run: GeneratorRun) -> DatasetInfo:
    """The codes' facts; raises ArtefactError when they do not fit the tokenizer or the model."""
    folder = Path(run.data.train_path)
    artefact.read_manifest(folder, "codes")
    codes = read_dataset(folder)
    digest = artefact.sha256_of(Path(run.tokenizer_path) / WEIGHTS_FILE)
    if codes.tokenizer_sha256 != digest:
        raise ArtefactError(
            f"{folder}: made by tokenizer {codes.tokenizer_sha256[:12]}, but "
            f"{run.tokenizer_path} is {digest[:12]}; encode again or correct tokenizer_path"
        )
    channels = checkpoint.tokenizer_config(Path(run.tokenizer_path)).latent_width
    expected = {
        "model.channels": (run.model.channels, channels),
        "model.grid_size": (run.model.grid_size, codes.grid_size),
        "model.num_classes": (run.model.num_classes, len(codes.classes)),
    }
    for name, (have, need) in expected.items():
        if have != need:
            raise ArtefactError(
                f"{name} = {have}: the codes in {folder} need {need}; pass --{name.replace('_', '-')} {need}"
            )
    return codes


def _measured_scale(tokenizer: GloTokTokenizer, codes: Path) -> Tensor:
    with np.load(codes / "counts.npz", allow_pickle=False) as counts:
        scales = [
            latent_scale_from_counts(
                tokenizer.quantizer(name).codebook.cpu(), torch.from_numpy(counts[name])
            )
            for name in tokenizer.config.names
        ]
    return latent_scale(scales, tokenizer.config)
