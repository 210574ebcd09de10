"""What every training run needs on one worker: its folder, its arithmetic, its rows, its module in place.

The same for tokenizers and generators. Read next: glotok_ray/training/tokenizer_run.py
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from glotok_ray.config import GeneratorRun, ScalingConfig, TokenizerRun
from glotok_ray.data.records import read_dataset
from glotok_ray.data.shard_plan import PlanUnit, remaining_units
from glotok_ray.data.training_rows import CodeRows, ImageRows, expect_images, shard_rows
from glotok_ray.nn.recompute import recompute_activations
from glotok_ray.training.trainer import Batch, RunPlan
from glotok_ray.training.worker import Worker

BatchSource = Callable[[int], Iterator[Batch]]
Module = TypeVar("Module", bound=nn.Module)


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
        schedule=run.schedule,
        optimizer=run.optimizer,
        scaling=run.scaling,
    )


def row_reader(run: TokenizerRun | GeneratorRun) -> ImageRows | CodeRows:
    """What turns a plan unit into rows."""
    if isinstance(run, TokenizerRun):
        return ImageRows.of(run.data, seed=run.seed, image_size=run.model.autoencoder.image_size)
    dataset = read_dataset(Path(run.data.train_path))
    return CodeRows(
        Path(run.data.train_path).absolute(), run.seed, dataset.num_views, dataset.codebooks
    )


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
        plan, reader = run_plan(run), row_reader(run)
        size = plan.micro_batch_size
        held: dict[str, list[np.ndarray]] = {}
        count = 0
        for unit in plan_units(run, plan, first_step):
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


def place(module: Module, worker: Worker, scaling: ScalingConfig) -> Module:
    """The module on the worker's device, recomputing or compiled as `scaling` says."""
    module = module.to(worker.device)
    if scaling.activation_checkpointing:
        recompute_activations(module)
    if scaling.compile:
        module.compile()
    return module


def set_threads(threads: int) -> None:
    """Torch threads of this worker; 0 leaves torch's own choice."""
    if threads:
        torch.set_num_threads(threads)
