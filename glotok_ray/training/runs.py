"""Whole training runs on one worker: build the models and engines, train, export.

Called by every rank under Ray Train and by a plain process alike; batches come from outside.
Read next: glotok_ray/training/trainer.py
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from torch import Tensor, nn

from glotok_ray import artefact, config
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import GeneratorRun, RelationConfig, TokenizerRun
from glotok_ray.data.records import DatasetInfo, decode_image, read_dataset
from glotok_ray.data.shard_plan import PlanUnit, remaining_units
from glotok_ray.data.training_rows import CodeRows, ImageRows, expect_images, shard_rows
from glotok_ray.data.transforms import center_crop
from glotok_ray.losses.relation import codebook_histogram, histogram_bins, relation_loss
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.perceptual import build_perceptual
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.sampling.latents import latent_scale, latent_scale_from_counts
from glotok_ray.teacher.histogram import TeacherHistogram, load_teacher
from glotok_ray.training import checkpoint
from glotok_ray.training.engine import make_engine
from glotok_ray.training.step import GeneratorStep, TokenizerStep
from glotok_ray.training.trainer import Batch, RunPlan, Trainer
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

BatchSource = Callable[[int], Iterator[Batch]]
RELATION_FILE = "relation.json"


def run_folder(run: TokenizerRun | GeneratorRun) -> Path:
    """The folder of a run."""
    return (Path(run.output_path) / run.name).absolute()


def run_plan(run: TokenizerRun | GeneratorRun) -> RunPlan:
    """The arithmetic of a run on its data set; raises ArtefactError when the data are not what the recipe expects."""
    dataset = read_dataset(Path(run.data.train_path))
    images = expect_images(dataset, run.data.train_path, run.data.num_train_images)
    return RunPlan(
        folder=run_folder(run),
        seed=run.seed,
        steps_per_epoch=run.schedule.steps_per_epoch(images),
        accumulation_steps=run.schedule.accumulation_steps(run.scaling.num_workers),
        schedule=run.schedule,
        optimizer=run.optimizer,
    )


def row_reader(run: TokenizerRun | GeneratorRun) -> ImageRows | CodeRows:
    """What turns a plan unit into rows."""
    if isinstance(run, TokenizerRun):
        return ImageRows.of(run.data, seed=run.seed, image_size=run.model.autoencoder.image_size)
    dataset = read_dataset(Path(run.data.train_path))
    return CodeRows(Path(run.data.train_path).absolute(), run.seed, dataset.num_views)


def plan_units(run: TokenizerRun | GeneratorRun, plan: RunPlan, first_step: int) -> list[PlanUnit]:
    """The units from optimizer step `first_step` to the end of the run."""
    dataset = read_dataset(Path(run.data.train_path))
    batch_size = run.schedule.global_batch_size
    return remaining_units(
        shard_rows(dataset, rows_per_image=dataset.num_views),
        seed=run.seed,
        epochs=run.schedule.epochs,
        rows_per_epoch=plan.steps_per_epoch * batch_size,
        consumed_rows=first_step * batch_size,
    )


def local_batches(run: TokenizerRun | GeneratorRun) -> BatchSource:
    """Micro batches read in this process, for one worker: the same rows in the same order as Ray Data deals them."""

    def batches(first_step: int) -> Iterator[Batch]:
        reader, size = row_reader(run), run.schedule.micro_batch_size
        held: dict[str, list[np.ndarray]] = {}
        count = 0
        for unit in plan_units(run, run_plan(run), first_step):
            for name, values in reader(unit).items():
                held.setdefault(name, []).append(values)
            count += unit.stop - unit.start
            joined = {name: np.concatenate(parts) for name, parts in held.items()}
            for start in range(0, count - size + 1, size):
                yield {
                    name: torch.from_numpy(values[start : start + size].copy())
                    for name, values in joined.items()
                }
            rest = count % size
            held = {name: [values[count - rest :]] for name, values in joined.items()}
            count = rest

    return batches


def teacher_of(run: TokenizerRun) -> TeacherHistogram:
    """The run's teacher, projected to the codebook's width where `relation.project_teacher` says so."""
    teacher = load_teacher(Path(run.teacher_path))
    return (
        teacher.projected(run.model.semantic.width)
        if run.loss.relation.project_teacher
        else teacher
    )


def check_teacher(run: TokenizerRun) -> None:
    """Warn when the codebook cannot reach the teacher; raises ValueError when bins and alpha are too sharp for it."""
    teacher = teacher_of(run)
    teacher.distribution(run.loss.relation)
    if run.loss.relation_weight > 0:
        teacher.reachable(width=run.model.semantic.width, size=run.model.semantic.size)


def train_tokenizer(run: TokenizerRun, worker: Worker, batches: BatchSource) -> dict[str, Any]:
    """Train and export a tokenizer; rank 0 writes tokenizer.safetensors, tokenizer.json and relation.json."""
    _set_threads(run.scaling.threads_per_worker)
    plan = run_plan(run)
    torch.manual_seed(run.seed)
    model = GloTokTokenizer(run.model).to(worker.device)
    discriminator = PatchDiscriminator(run.discriminator).to(worker.device)
    relation = run.loss.relation
    teacher = teacher_of(run).distribution(relation).to(worker.device)
    with torch.no_grad():
        initial = codebook_histogram(model.semantic_quantizer.codebook, relation)
    engines = [
        make_engine(
            module,
            run.optimizer,
            run.scaling,
            run.schedule.micro_batch_size,
            plan.accumulation_steps,
        )
        for module in (model, discriminator)
    ]
    step = TokenizerStep(
        *engines,
        perceptual=_frozen(build_perceptual(run.loss), worker.device, run.scaling.precision),
        teacher=teacher,
        weights=run.loss,
        worker=worker,
        validation=_validation_images(run, worker),
    )
    model.train()
    figures = Trainer(step, worker, plan).fit(batches)
    state = {**model.state_dict(), **dict(engines[0].full_precision_parameters())}
    if worker.rank == 0:
        exported = GloTokTokenizer(run.model)
        exported.load_state_dict(
            {name: value.detach().float().cpu() for name, value in state.items()}
        )
        checkpoint.save_tokenizer(plan.folder, exported, run.model)
        _write_relation(
            plan.folder, relation, teacher, initial, exported.semantic_quantizer.codebook
        )
    worker.barrier()
    return figures


def _write_relation(
    folder: Path, relation: RelationConfig, teacher: Tensor, initial: Tensor, codebook: Tensor
) -> None:
    """The histograms of the relation loss before and after training, for the report."""
    final = codebook_histogram(codebook.detach(), relation).cpu()
    histograms = {
        "teacher": teacher.cpu(),
        "student_initial": initial.cpu(),
        "student_final": final,
    }
    values: dict[str, Any] = {name: values.tolist() for name, values in histograms.items()}
    values["bins"] = histogram_bins(relation.num_bins).tolist()
    for name in ("initial", "final"):
        student = histograms[f"student_{name}"]
        values[f"kl_{name}"] = float(
            relation_loss(student, histograms["teacher"], reduction=relation.reduction)
        )
    artefact.write_json(folder / RELATION_FILE, values)


def train_generator(run: GeneratorRun, worker: Worker, batches: BatchSource) -> dict[str, Any]:
    """Train and export a generator; rank 0 writes both sets of weights and generator.json."""
    _set_threads(run.scaling.threads_per_worker)
    plan = run_plan(run)
    codes = check_codes(run)
    tokenizer = checkpoint.load_tokenizer(Path(run.tokenizer_path)).to(worker.device)
    torch.manual_seed(run.seed)
    model = XAR(run.model).to(worker.device)
    model.latent_scale.copy_(_measured_scale(tokenizer, Path(run.data.train_path)))
    engine = make_engine(
        model, run.optimizer, run.scaling, run.schedule.micro_batch_size, plan.accumulation_steps
    )
    step = GeneratorStep(engine, tokenizer, run.flow, run.ema_decay, worker)
    model.train()
    figures = Trainer(step, worker, plan).fit(batches)
    state = {**model.state_dict(), **dict(engine.full_precision_parameters())}
    if worker.rank == 0:
        facts = {
            "model": config.to_dict(run.model),
            "flow": config.to_dict(run.flow),
            "tokenizer_sha256": artefact.sha256_of(
                Path(run.tokenizer_path) / "tokenizer.safetensors"
            ),
            "classes": list(codes.classes),
        }
        checkpoint.save_generator(plan.folder, state, step.average.state_dict(model), facts)
    worker.barrier()
    return figures


def check_codes(run: GeneratorRun) -> DatasetInfo:
    """The codes' facts; raises ArtefactError when they do not fit the tokenizer or the model."""
    folder = Path(run.data.train_path)
    artefact.read_manifest(folder, "codes")
    codes = read_dataset(folder)
    digest = artefact.sha256_of(Path(run.tokenizer_path) / "tokenizer.safetensors")
    if codes.tokenizer_sha256 != digest:
        raise ArtefactError(
            f"{folder}: made by tokenizer {codes.tokenizer_sha256[:12]}, but "
            f"{run.tokenizer_path} is {digest[:12]}; encode again or correct tokenizer_path"
        )
    expected = {
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
        visual, semantic = (torch.from_numpy(counts[name]) for name in ("visual", "semantic"))
    return latent_scale(
        latent_scale_from_counts(tokenizer.visual_quantizer.codebook.cpu(), visual),
        latent_scale_from_counts(tokenizer.semantic_quantizer.codebook.cpu(), semantic),
        tokenizer.config,
    )


def _validation_images(run: TokenizerRun, worker: Worker) -> Tensor:
    """This worker's share of the validation images, uint8 (n, 3, h, w), centre crops."""
    size = run.model.autoencoder.image_size
    images: list[np.ndarray] = []
    if run.data.validation_path and run.data.num_validation_images:
        folder = Path(run.data.validation_path)
        for index, (key, encoded) in enumerate(_first_rows(folder, run.data.num_validation_images)):
            if index % worker.world_size == worker.rank:
                images.append(center_crop(decode_image(encoded, key), size).transpose(2, 0, 1))
    stacked = np.stack(images) if images else np.zeros((0, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(stacked).to(worker.device)


def _first_rows(folder: Path, number: int) -> Iterator[tuple[str, bytes]]:
    for shard in read_dataset(folder).shards:
        table = pyarrow.parquet.read_table(folder / shard.file, columns=["key", "image"])
        for key, image in zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True):
            if number == 0:
                return
            number -= 1
            yield key, image


def _frozen(module: nn.Module, device: torch.device, precision: str) -> nn.Module:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return module.requires_grad_(False).eval().to(device, dtype)


def _set_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
