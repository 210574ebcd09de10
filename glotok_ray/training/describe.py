"""What a training run would be, without starting it: parameters, steps, batches and memory.

Read next: glotok_ray/training/activations.py
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glotok_ray.config.runs import FARRun, GeneratorRun, TokenizerRun, XARRun
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.perceptual import perceptual_without_weights
from glotok_ray.storage.artefact import MANIFEST, ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.training.activations import Inputs, kept_by_forward, saved_bytes
from glotok_ray.training.example_inputs import generator_inputs
from glotok_ray.training.inputs import check_present_inputs
from glotok_ray.training.memory import GIB, count_parameters, expected_memory
from glotok_ray.training.without_numbers import on_meta_device


def describe_tokenizer(run: TokenizerRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a tokenizer run; inputs that are there must fit it."""
    check_present_inputs(run)
    dataset = _present_dataset(run)
    side = run.model.autoencoder.image_size

    def images(count: int) -> tuple[Tensor, ...]:
        return (torch.empty(count, 3, side, side).contiguous(memory_format=torch.channels_last),)

    model, kept = kept_by_forward(lambda: GloTokTokenizer(run.model), images, run.scaling)
    assert isinstance(model, GloTokTokenizer)
    discriminator, measured = kept_by_forward(
        lambda: PatchDiscriminator(run.discriminator), images, run.scaling
    )
    batch = run.schedule.micro_batch(run.scaling.num_workers)
    trained = [model, discriminator]
    return {
        "parameters": count_parameters(model),
        "modules": model.module_parameters(),
        "discriminator_parameters": count_parameters(discriminator),
        "crops": crops_text(dataset) if dataset is not None else None,
        **_arithmetic(run, dataset),
        **_memory(
            trained,
            run,
            activations=kept.of_batch(batch)
            + 2 * measured.of_batch(batch)
            + batch * _perceptual_bytes(run),
            averaged=model if run.ema_decay else None,
            exported=trained,
        ),
    }


def _perceptual_bytes(run: TokenizerRun) -> int:
    """What the perceptual network keeps of one image, beside all that the tokenizer keeps; counted on a GPU alone,
    where it is not small beside that.
    """
    if not run.scaling.use_gpu:
        return 0
    side = run.model.autoencoder.image_size
    network = perceptual_without_weights(run.loss)
    if run.scaling.precision != "fp32":
        network = network.to(torch.bfloat16)
    with on_meta_device():
        images = torch.empty(1, 3, side, side)
        return saved_bytes(network, images, torch.empty_like(images, requires_grad=True))


def describe_generator(run: XARRun | FARRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a generator run; inputs that are there must fit it."""
    check_present_inputs(run)
    model, kept = kept_by_forward(*_example(run), run.scaling)
    batch = run.schedule.micro_batch(run.scaling.num_workers)
    activations = kept.of_batch(batch)
    if isinstance(run, FARRun):
        activations += batch * _cross_entropy_bytes(run)
    modules = {name: count_parameters(child) for name, child in model.named_children()}
    direct = {name: parameter.numel() for name, parameter in model.named_parameters(recurse=False)}
    return {
        "parameters": count_parameters(model),
        "modules": modules | direct,
        **_arithmetic(run, _present_dataset(run)),
        **_memory(
            [model],
            run,
            activations=activations,
            averaged=model if run.ema_decay else None,
            # Checkpoints that are evaluated hold the weights for sampling.
            exported=[model] if run.checkpoint_evaluation.every_steps else [],
        ),
        # The first worker gathers both sets of weights in fp32 before it writes them.
        "export_gib": round((8 if run.ema_decay else 4) * count_parameters(model) / GIB, 3),
    }


def _example(config: XARRun | FARRun) -> tuple[Callable[[], nn.Module], Inputs]:
    """The model of a run and inputs for it."""

    def make() -> nn.Module:
        return FAR(config.model) if isinstance(config, FARRun) else XAR(config.model)

    return make, functools.partial(generator_inputs, config)


def _cross_entropy_bytes(run: FARRun) -> int:
    """The logarithms of probabilities, which the loss keeps in fp32, and their gradient, of one image."""
    return 2 * 4 * run.model.num_positions * sum(item.size for item in run.model.codebooks)


def _present_dataset(run: TokenizerRun | GeneratorRun) -> DatasetInfo | None:
    """The facts of the data to train on; None as long as there are none."""
    folder = to_path(run.data.train_path)
    return read_dataset(folder) if (folder / MANIFEST).is_file() else None


def _images(run: TokenizerRun | GeneratorRun, dataset: DatasetInfo | None) -> int:
    if run.data.num_train_images:
        return run.data.num_train_images
    if dataset is None:
        raise ArtefactError(
            f"data.num_train_images = 0 and {run.data.train_path} holds no data yet; give the number, or build "
            "the data first"
        )
    return dataset.num_images


def _arithmetic(run: TokenizerRun | GeneratorRun, dataset: DatasetInfo | None) -> dict[str, Any]:
    schedule, workers = run.schedule, run.scaling.num_workers
    images = _images(run, dataset)
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
    activations: float,
    averaged: nn.Module | None,
    exported: Sequence[nn.Module] = (),
) -> dict[str, Any]:
    """GiB per worker; `averaged` is the model that has a moving average, `exported` are those that each checkpoint also
    holds whole.
    """
    scaling, schedule = run.scaling, run.schedule
    expected = expected_memory(
        [count_parameters(model) for model in models],
        scaling,
        activations=activations,
        averaged=count_parameters(averaged) if averaged is not None else 0,
        accumulation_steps=schedule.accumulation_steps(scaling.num_workers),
        exported=sum(count_parameters(model) for model in exported),
    )
    note = (
        f"ZeRO stage {scaling.zero_stage} over {scaling.num_workers} workers, {scaling.precision}. The parts are not "
        "there all at once: start comes before training, update after activations and buckets. Activations are what "
        "autograd keeps (of recomputing blocks their inputs), on a GPU of the perceptual network too. Without "
        "kernels' workspaces, weights of frozen networks and fragmentation. Checkpoints are written from copies in "
        "host memory: checkpoint_host_gib on the first worker. A run reports its own peak as memory/peak_gib"
    )
    return {
        "memory_per_worker_gib": round(expected.total / GIB, 3),
        "memory_parts_gib": {
            name: round(value / GIB, 3) for name, value in expected.parts().items()
        },
        "checkpoint_host_gib": round(expected.checkpoint / GIB, 3),
        "memory_note": note,
    }
