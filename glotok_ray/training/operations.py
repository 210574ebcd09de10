"""The floating-point operations of an optimizer step, for MFU, counted once by torch's FlopCounterMode on the meta
device: convolutions and matrix products.

Counted are all forward and backward passes of the networks: a product-sum is two operations, and a backward pass has a
product per input that takes a gradient. Left out are element-wise work, the pairs of the relation loss, the optimizer,
and what activation checkpointing computes again. Read next: glotok_ray/training/step_times.py
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from glotok_ray.config.runs import AnyGeneratorRun, TokenizerRun
from glotok_ray.losses import objective
from glotok_ray.nn.tokenizer import TokenizerOutput
from glotok_ray.training.device_rates import peak_rate
from glotok_ray.training.example_inputs import generator_inputs
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.step_times import Utilization
from glotok_ray.training.tokenizer_step import FrozenNetworks

_META = torch.device("meta")


def utilization_of(
    plan: RunPlan, device: torch.device, count: Callable[[], Callable[[int], float]]
) -> Utilization | None:
    """What `device` can compute and has to: `count` gives the operations of one image, by step. None where the peak of
    the device is not known; nothing is counted then.
    """
    peak = peak_rate(device)
    if peak is None:
        return None
    images = plan.micro_batch_size * plan.accumulation_steps
    # Networks draw dropout, also where they have no numbers; a training must not see that it was counted.
    with torch.random.fork_rng(devices=[]):
        per_image = count()
    return Utilization(lambda step: images * per_image(step), peak)


def tokenizer_operations(
    config: TokenizerRun, model: nn.Module, discriminator: nn.Module, frozen: FrozenNetworks
) -> Callable[[int], float]:
    """Of one image, by step: with the adversarial game from its first step on. Modules may be on any device, whole."""
    side = config.model.autoencoder.image_size
    images = torch.empty(1, 3, side, side, device=_META)
    leaf = torch.empty_like(images, requires_grad=True)

    def learn_from_images() -> None:
        output: TokenizerOutput = _on_meta(model, images)
        terms = [output.reconstruction.sum()]
        for branch in output.branches.values():
            terms.append(branch.residual.sum())
            if branch.prediction is not None:
                terms.append(branch.prediction.sum())
        torch.stack(terms).sum().backward()
        _on_meta(frozen.perceptual, images, leaf).sum().backward()
        for network in frozen.image_networks.values():
            _on_meta(network, images)

    def play() -> None:
        _on_meta(discriminator, leaf, trained=False).sum().backward()
        for _ in ("real", "fake"):
            _on_meta(discriminator, images).sum().backward()

    always, game = _count(learn_from_images), _count(play)
    return lambda step: always + game * objective.adversarial_is_on(config.loss, step)


def generator_operations(config: AnyGeneratorRun, model: nn.Module) -> Callable[[int], float]:
    """Of one image, at every step; the tokenizer's look-up of codes has no products."""

    def learn() -> None:
        found = _on_meta(model, *generator_inputs(config, 1, _META))
        parts = [found] if isinstance(found, Tensor) else found
        torch.stack([part.sum() for part in parts]).sum().backward()

    count = _count(learn)
    return lambda _: count


def _count(work: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _on_meta(module: nn.Module, *inputs: Tensor, trained: bool = True) -> Any:
    """The module's forward pass with parameters and buffers in fp32 that have no numbers; the module stays as it is."""
    state: dict[str, Tensor] = {}
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        state[name] = torch.empty_like(value, device=_META, dtype=dtype, requires_grad=False)
        state[name].requires_grad_(trained and value.requires_grad)
    return functional_call(module, state, inputs)
