"""What every training run needs on one worker: its folder, its arithmetic, its rows, its module in place.

The same for tokenizers and generators. Read next: glotok_ray/training/tokenizer_run.py
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.config.training import ScalingConfig
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import read_dataset
from glotok_ray.data.shard_plan import Division, ShardPlan
from glotok_ray.data.training_rows import CodeRows, ImageRows, expect_images, shard_rows
from glotok_ray.nn.recompute import recompute_activations
from glotok_ray.storage import artefact
from glotok_ray.storage.retries import StorageError, patiently
from glotok_ray.training.batches import DeviceFeed, MicroBatch
from glotok_ray.training.trainer import RunPlan
from glotok_ray.training.worker import Worker

RUN_FILE = "run.json"
"""In a run's folder: what crops a tokenizer is trained on. Older versions noted the run's fingerprint there too."""

BatchSource = Callable[[int], Iterator[MicroBatch]]
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
        max_bad_rows=run.data.max_bad_rows if isinstance(run, TokenizerRun) else 0,
        audit_keys=run.audit_keys,
    )


def training_crops(run: TokenizerRun) -> str:
    """What the crops of a tokenizer run are, for people."""
    images = read_dataset(Path(run.data.train_path))
    return crops_text(images)


def wait_for_inputs(run: TokenizerRun | GeneratorRun) -> None:
    """Return when every folder that the run reads is there: the launcher has seen them, so one that is not is away.

    Raises StorageError for one that stays away.
    """
    paths = [run.data.train_path]
    if isinstance(run, TokenizerRun):
        paths += [run.data.validation_path, run.teacher_path]
    else:
        paths.append(run.tokenizer_path)
    for path in filter(None, paths):
        manifest = Path(path) / artefact.MANIFEST
        patiently(manifest.stat, Path(path), minutes=run.scaling.storage_retry_minutes)


def row_reader(run: TokenizerRun | GeneratorRun) -> ImageRows | CodeRows:
    """What turns a plan unit into rows."""
    if isinstance(run, TokenizerRun):
        return ImageRows.of(
            run.data,
            seed=run.seed,
            image_size=run.model.autoencoder.image_size,
            retry_minutes=run.scaling.storage_retry_minutes,
        )
    dataset = read_dataset(Path(run.data.train_path))
    return CodeRows(
        Path(run.data.train_path).absolute(),
        run.seed,
        dataset.num_views,
        dataset.code_counts,
        len(dataset.classes),
        dataset.grid_size**2,
        run.scaling.storage_retry_minutes,
    )


def row_plan(run: TokenizerRun | GeneratorRun, plan: RunPlan) -> ShardPlan:
    """The order of all rows of a run."""
    dataset = read_dataset(Path(run.data.train_path))
    return ShardPlan(
        tuple(shard_rows(dataset, rows_per_image=dataset.num_views)),
        seed=run.seed,
        batch_size=run.schedule.global_batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        open_shards=run.data.open_shards,
    )


def division(run: TokenizerRun | GeneratorRun) -> Division:
    """How the rows of a run are divided among its workers."""
    workers = run.scaling.num_workers
    return Division(workers, run.schedule.micro_batch(workers), run.scaling.unit_rows)


def local_batches(run: TokenizerRun | GeneratorRun) -> BatchSource:
    """Micro batches read in this process, for one worker: the same rows in the same order as Ray Data deals them."""

    def batches(first_step: int) -> Iterator[MicroBatch]:
        plan, reader, make = run_plan(run), row_reader(run), DeviceFeed(torch.device("cpu"))
        parts = division(run)
        for unit in row_plan(run, plan).units(first_step, plan.last_step, parts):
            columns = reader(unit)
            for start in range(0, len(unit.positions), parts.micro_batch_size):
                rows = slice(start, start + parts.micro_batch_size)
                yield make({name: values[rows] for name, values in columns.items()})

    return batches


def place(module: Module, worker: Worker, scaling: ScalingConfig) -> Module:
    """The module on the worker's device, recomputing or compiled as `scaling` says."""
    module = module.to(worker.device)
    if scaling.activation_checkpointing:
        recompute_activations(module)
    if scaling.compile:
        module.compile()
    return module


@contextlib.contextmanager
def exporting(worker: Worker, plan: RunPlan) -> Iterator[None]:
    """Writing of the results, after the last checkpoint; raises StorageError where a file cannot be written: another
    attempt would meet the same, and a later command has nothing but this to do.
    """
    try:
        worker.heartbeat.fault_point("write_export", plan.last_step)
        yield
    except OSError as error:
        raise StorageError(
            f"{plan.folder}: the training is done and kept; its export failed: {error}; make room, or mend the "
            "storage, and the same command exports again"
        ) from error


def set_threads(threads: int) -> None:
    """Torch threads of this worker; 0 leaves torch's own choice."""
    if threads:
        torch.set_num_threads(threads)
