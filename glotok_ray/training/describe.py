"""What a training run would be, without starting it: parameters, steps, batches and memory, from the meta device.

Read next: glotok_ray/training/runs.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glotok_ray.artefact import MANIFEST, ArtefactError
from glotok_ray.config import GeneratorRun, ScalingConfig, TokenizerRun
from glotok_ray.data.records import read_dataset
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.recompute import recompute_activations, recomputing_blocks
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR

_GIB = 2.0**30


def describe_tokenizer(run: TokenizerRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a tokenizer run."""
    side = run.model.autoencoder.image_size
    with torch.device("meta"):
        model, discriminator = GloTokTokenizer(run.model), PatchDiscriminator(run.discriminator)
        images = torch.empty(1, 3, side, side)
    if run.scaling.activation_checkpointing:
        recompute_activations(model)
    trained = [model, discriminator]
    saved = saved_bytes(model, images) + 2 * saved_bytes(discriminator, images)
    return {
        "parameters": count_parameters(model),
        "modules": model.module_parameters(),
        "discriminator_parameters": count_parameters(discriminator),
        **_arithmetic(run),
        **_memory(
            trained, run, saved_bytes_per_image=saved, averaged=model if run.ema_decay else None
        ),
    }


def describe_generator(run: GeneratorRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a generator run."""
    size = run.model
    with torch.device("meta"):
        model = XAR(size)
        cells = torch.empty(1, size.num_cells, size.tokens_per_cell, size.channels)
        inputs = (cells, torch.empty(1, size.num_cells), torch.zeros(1, dtype=torch.int64))
    if run.scaling.activation_checkpointing:
        recompute_activations(model)
    modules = {name: count_parameters(child) for name, child in model.named_children()}
    direct = {name: parameter.numel() for name, parameter in model.named_parameters(recurse=False)}
    return {
        "parameters": count_parameters(model),
        "modules": modules | direct,
        **_arithmetic(run),
        **_memory([model], run, saved_bytes_per_image=saved_bytes(model, *inputs), averaged=model),
    }


def count_parameters(module: nn.Module) -> int:
    """Scalars in all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def saved_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes, in fp32, that one forward pass leaves for the backward pass, parameters apart: what autograd keeps, and
    what enters blocks that recompute (nn/recompute.py).
    """
    own = {id(parameter) for parameter in module.parameters()}
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # holding them keeps their ids apart

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and tensor.is_floating_point():
            base = tensor if tensor._base is None else tensor._base
            kept.append(base)
            seen[id(base)] = base.numel() * 4
        return tensor

    def keep_input(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        pack(arguments[0])

    for block in recomputing_blocks(module):
        block.register_forward_pre_hook(keep_input)
    module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(*inputs)
    return sum(seen.values())


def _images(run: TokenizerRun | GeneratorRun) -> int:
    if run.data.num_train_images:
        return run.data.num_train_images
    folder = Path(run.data.train_path)
    if not (folder / MANIFEST).is_file():
        raise ArtefactError(
            f"data.num_train_images = 0 and {folder} holds no data yet; give the number, or build the data first"
        )
    return read_dataset(folder).num_images


def _arithmetic(run: TokenizerRun | GeneratorRun) -> dict[str, Any]:
    schedule, workers = run.schedule, run.scaling.num_workers
    images = _images(run)
    steps = schedule.steps_per_epoch(images)
    return {
        "num_images": images,
        "steps_per_epoch": steps,
        "total_steps": steps * schedule.epochs,
        "samples_seen": steps * schedule.epochs * schedule.global_batch_size,
        "global_batch_size": schedule.global_batch_size,
        "micro_batch_size": schedule.micro_batch(workers),
        "num_workers": workers,
        "accumulation_steps": schedule.accumulation_steps(workers),
    }


def _memory(
    models: list[nn.Module],
    run: TokenizerRun | GeneratorRun,
    *,
    saved_bytes_per_image: int,
    averaged: nn.Module | None,
) -> dict[str, Any]:
    """GiB per worker; `averaged` is the model with an fp32 average, which is sharded like the optimizer."""
    parameters = sum(count_parameters(model) for model in models)
    parts = state_bytes(parameters, run.scaling)
    activation_scale = 1.0 if run.scaling.precision == "fp32" else 0.5
    parts["activations"] = (
        saved_bytes_per_image * run.schedule.micro_batch(run.scaling.num_workers) * activation_scale
    )
    shares = run.scaling.num_workers if run.scaling.zero_stage >= 1 else 1
    parts["average"] = 4 * count_parameters(averaged) / shares if averaged else 0.0
    rounded = {name: round(value / _GIB, 3) for name, value in parts.items()}
    note = (
        f"ZeRO stage {run.scaling.zero_stage} over {run.scaling.num_workers} workers, "
        f"{run.scaling.precision}; activations as autograd saves them (of recomputing blocks their inputs), "
        "without kernels' workspaces, communication buckets, frozen networks and fragmentation"
    )
    return {
        "memory_per_worker_gib": round(sum(parts.values()) / _GIB, 3),
        "memory_parts_gib": rounded,
        "memory_note": note,
    }


def state_bytes(parameters: int, scaling: ScalingConfig) -> dict[str, float]:
    """Bytes of weights, gradients and Adam's state on one worker under ZeRO (stage 1 shards the
    optimizer, 2 also gradients, 3 also weights).
    """
    workers, stage = scaling.num_workers, scaling.zero_stage
    width = 2 if scaling.precision == "bf16" else 4
    # Two fp32 moments, and an fp32 master copy where the weights are bf16 (and ZeRO keeps one of fp32 weights as well).
    optimizer = 4 * parameters * (3 if stage >= 1 or scaling.precision == "bf16" else 2)
    return {
        "weights": width * parameters / (workers if stage >= 3 else 1),
        "gradients": width * parameters / (workers if stage >= 2 else 1),
        "optimizer": optimizer / (workers if stage >= 1 else 1),
    }
