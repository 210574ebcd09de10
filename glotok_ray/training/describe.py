"""What a training run would be, without starting it: parameters, steps, batches and memory, from the meta device.

Read next: glotok_ray/training/memory.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glotok_ray.artefact import MANIFEST, ArtefactError
from glotok_ray.config import FARRun, GeneratorRun, ScalingConfig, TokenizerRun, XARRun
from glotok_ray.data.records import read_dataset
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.far import FAR
from glotok_ray.nn.recompute import recompute_activations, recomputing_blocks
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.training.inputs import check_present_inputs
from glotok_ray.training.memory import GIB, count_parameters, expected_memory
from glotok_ray.training.runs import training_crops


def describe_tokenizer(run: TokenizerRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a tokenizer run; inputs that are there must fit it."""
    check_present_inputs(run)
    side = run.model.autoencoder.image_size
    dtype = _activation_dtype(run.scaling)
    with torch.device("meta"):
        model = GloTokTokenizer(run.model).to(dtype)
        discriminator = PatchDiscriminator(run.discriminator).to(dtype)
        images = torch.empty(1, 3, side, side, dtype=dtype)
    if run.scaling.activation_checkpointing:
        recompute_activations(model)
    trained = [model, discriminator]
    saved = saved_bytes(model, images) + 2 * saved_bytes(discriminator, images)
    return {
        "parameters": count_parameters(model),
        "modules": model.module_parameters(),
        "discriminator_parameters": count_parameters(discriminator),
        "crops": _crops(run),
        **_arithmetic(run),
        **_memory(
            trained,
            run,
            saved_bytes_per_image=saved,
            averaged=model if run.ema_decay else None,
            exported=trained,
        ),
    }


def describe_generator(run: XARRun | FARRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a generator run; inputs that are there must fit it."""
    check_present_inputs(run)
    dtype = _activation_dtype(run.scaling)
    with torch.device("meta"):
        labels = torch.zeros(1, dtype=torch.int64)
        if isinstance(run, XARRun):
            model, inputs = _xar_example(run, labels, dtype)
        else:
            model = FAR(run.model).to(dtype)
            codes = (1, len(run.model.codebooks), run.model.num_positions)
            inputs = (torch.zeros(codes, dtype=torch.int64), labels)
    if run.scaling.activation_checkpointing:
        recompute_activations(model)
    saved = saved_bytes(model, *inputs)
    if isinstance(run, FARRun):
        saved += _cross_entropy_bytes(run)
    modules = {name: count_parameters(child) for name, child in model.named_children()}
    direct = {name: parameter.numel() for name, parameter in model.named_parameters(recurse=False)}
    return {
        "parameters": count_parameters(model),
        "modules": modules | direct,
        **_arithmetic(run),
        **_memory(
            [model], run, saved_bytes_per_image=saved, averaged=model if run.ema_decay else None
        ),
        # The first worker gathers both sets of weights in fp32 before it writes them.
        "export_gib": round((8 if run.ema_decay else 4) * count_parameters(model) / GIB, 3),
    }


def _xar_example(
    run: XARRun, labels: Tensor, dtype: torch.dtype
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    size = run.model
    tokens = torch.empty(1, size.num_tokens, size.channels, dtype=dtype)
    context = (tokens.clone(),) if run.flow.context == "clean" else ()
    return XAR(size).to(dtype), (tokens, torch.empty(1, size.num_entities), labels, *context)


def _cross_entropy_bytes(run: FARRun) -> int:
    """The logarithms of probabilities, which the loss keeps in fp32, and their gradient, of one image."""
    return 2 * 4 * run.model.num_positions * sum(item.size for item in run.model.codebooks)


def _activation_dtype(scaling: ScalingConfig) -> torch.dtype:
    """What a model computes in on the meta device, where autocast does nothing: half of whose bytes count then."""
    return torch.bfloat16 if scaling.precision == "bf16" else torch.float32


def saved_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that one forward pass leaves for the backward pass, parameters apart: what autograd keeps, and what enters
    blocks that recompute (nn/recompute.py).
    """
    own = {id(parameter) for parameter in module.parameters()}
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # holding them keeps their ids apart

    def pack(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(tensor) not in own and id(base) not in own:
            kept.append(base)
            seen[id(base)] = base.numel() * base.element_size()
        return tensor

    def keep_input(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        pack(arguments[0])

    for block in recomputing_blocks(module):
        block.register_forward_pre_hook(keep_input)
    module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(*inputs)
    return sum(seen.values())


def _crops(run: TokenizerRun) -> str | None:
    """What the training pictures are; None as long as there are none."""
    there = (Path(run.data.train_path) / MANIFEST).is_file()
    return training_crops(run) if there else None


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
    exported: Sequence[nn.Module] = (),
) -> dict[str, Any]:
    """GiB per worker; `averaged` is the model that has a moving average, `exported` are those that each checkpoint also
    holds whole.
    """
    scaling, schedule = run.scaling, run.schedule
    scale = 0.5 if scaling.precision == "bf16_autocast" else 1.0
    expected = expected_memory(
        [count_parameters(model) for model in models],
        scaling,
        activations=scale * saved_bytes_per_image * schedule.micro_batch(scaling.num_workers),
        averaged=count_parameters(averaged) if averaged is not None else 0,
        accumulation_steps=schedule.accumulation_steps(scaling.num_workers),
        exported=sum(count_parameters(model) for model in exported),
    )
    note = (
        f"ZeRO stage {scaling.zero_stage} over {scaling.num_workers} workers, {scaling.precision}. The parts are not "
        "there all at once: start comes before training, update after activations and buckets. Activations are what "
        "autograd keeps (of recomputing blocks their inputs). Without kernels' workspaces, frozen networks and "
        "fragmentation. Checkpoints are written from copies in host memory: checkpoint_host_gib on the first worker. "
        "A run reports its own peak as memory/peak_gib"
    )
    return {
        "memory_per_worker_gib": round(expected.total / GIB, 3),
        "memory_parts_gib": {
            name: round(value / GIB, 3) for name, value in expected.parts().items()
        },
        "checkpoint_host_gib": round(expected.checkpoint / GIB, 3),
        "memory_note": note,
    }
