"""What of a run needs no numbers: sizes of its models, what a micro batch keeps, the operations of an image.

Read next: glotok_ray/training/describe.py
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glotok_ray.config.runs import (
    AnyGeneratorRun,
    FARRun,
    GeneratorRun,
    RQRun,
    TokenizerRun,
    VARRun,
)
from glotok_ray.config.scaling import ScalingConfig
from glotok_ray.config.tokenizer import DiscriminatorConfig, TokenizerConfig
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.generator import build_generator
from glotok_ray.pretrained.perceptual import perceptual_without_weights
from glotok_ray.training.activations import Inputs, kept_by_forward, saved_bytes
from glotok_ray.training.counts import Counts, Kept
from glotok_ray.training.example_inputs import generator_inputs
from glotok_ray.training.peak_memory import count_parameters
from glotok_ray.training.without_numbers import on_meta_device


class Counted(NamedTuple):
    """A run's models, without numbers, and what they need."""

    models: list[nn.Module]
    """The first is the one that is trained for; a discriminator may follow."""
    counts: Counts


def count_tokenizer(run: TokenizerRun) -> Counted:
    """Of a tokenizer and its discriminator."""
    (model, kept), (discriminator, measured) = _trained_networks(
        run.model, run.discriminator, run.scaling
    )
    assert isinstance(model, GloTokTokenizer)
    # The discriminator looks at real images and at reconstructions.
    per_image = kept.per_image + 2 * measured.per_image + _perceptual_bytes(run)
    return _counted(
        [model, discriminator],
        model.module_parameters(),
        Kept(per_image, kept.once + 2 * measured.once),
    )


def _counted(models: list[nn.Module], modules: Mapping[str, int], kept: Kept) -> Counted:
    return Counted(models, Counts(tuple(map(count_parameters, models)), modules, kept))


@functools.lru_cache(maxsize=1)  # a quickstart's twin has the same ones
def _trained_networks(
    model: TokenizerConfig, discriminator: DiscriminatorConfig, scaling: ScalingConfig
) -> tuple[tuple[nn.Module, Kept], tuple[nn.Module, Kept]]:
    side = model.autoencoder.image_size

    def images(count: int) -> tuple[Tensor, ...]:
        return (torch.empty(count, 3, side, side).contiguous(memory_format=torch.channels_last),)

    return (
        kept_by_forward(lambda: GloTokTokenizer(model), images, scaling),
        kept_by_forward(lambda: PatchDiscriminator(discriminator), images, scaling),
    )


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


def generator_example(config: AnyGeneratorRun) -> tuple[Callable[[], nn.Module], Inputs]:
    """The model of a run and inputs for it."""

    return lambda: build_generator(config.model), functools.partial(generator_inputs, config)


def count_generator(run: AnyGeneratorRun) -> Counted:
    """Of a generator."""
    model, kept = kept_by_forward(*generator_example(run), run.scaling)
    modules = {name: count_parameters(child) for name, child in model.named_children()}
    direct = {name: parameter.numel() for name, parameter in model.named_parameters(recurse=False)}
    per_image = kept.per_image + _cross_entropy_bytes(run)
    return _counted([model], modules | direct, Kept(per_image, kept.once))


def _cross_entropy_bytes(run: AnyGeneratorRun) -> int:
    """The logarithms of probabilities, which the loss keeps in fp32, and their gradient, of one image; xAR has none."""
    if isinstance(run, FARRun):
        logits = run.model.num_positions * sum(item.size for item in run.model.codebooks)
    elif isinstance(run, VARRun | RQRun):
        logits = run.model.num_indices * run.model.num_codes
    else:
        logits = 0
    return 2 * 4 * logits


def count_run(run: TokenizerRun | GeneratorRun) -> Counted:
    """Of any training."""
    if isinstance(run, TokenizerRun):
        return count_tokenizer(run)
    assert isinstance(run, AnyGeneratorRun)
    return count_generator(run)


def operations_per_image(run: TokenizerRun | GeneratorRun, counted: Counted) -> float:
    """Floating-point operations of forward and backward passes for one image, with the adversarial game on.

    Networks that contrast heads compare with are left out: their layout is in files.
    """
    # They import triton, which a dry run does without.
    from glotok_ray.training.operations import generator_operations, tokenizer_operations
    from glotok_ray.training.tokenizer_step import FrozenNetworks

    if isinstance(run, TokenizerRun):
        model, discriminator = counted.models
        frozen = FrozenNetworks(perceptual_without_weights(run.loss), None, {})
        return tokenizer_operations(run, model, discriminator, frozen)(
            run.loss.adversarial_start_step
        )
    assert isinstance(run, AnyGeneratorRun)
    return generator_operations(run, counted.models[0])(0)
