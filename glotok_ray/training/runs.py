"""What every training run needs on one worker: inputs that are there, its module in place, its results written.

The same for tokenizers and generators. Read next: glotok_ray/training/tokenizer_run.py
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.config.training import ScalingConfig
from glotok_ray.nn.recompute import recompute_activations
from glotok_ray.storage import artefact
from glotok_ray.storage.places import to_path
from glotok_ray.storage.retries import StorageError, patiently
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.worker import Worker

BatchSource = Callable[[int], Iterator[MicroBatch]]
"""This worker's micro batches from a step on."""
Module = TypeVar("Module", bound=nn.Module)


def wait_for_inputs(config: TokenizerRun | GeneratorRun) -> None:
    """Return when every folder that the run reads is there: the launcher has seen them, so one that is not is away.

    Raises StorageError for one that stays away.
    """
    paths = [config.data.train_path]
    if isinstance(config, TokenizerRun):
        paths += [config.data.validation_path, config.teacher_path]
    else:
        paths.append(config.tokenizer_path)
    for path in filter(None, paths):
        manifest = to_path(path) / artefact.MANIFEST
        patiently(manifest.stat, to_path(path), minutes=config.scaling.storage_retry_minutes)


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
