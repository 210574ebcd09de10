"""Flow matching with noisy context: each entity has its own time; the network learns noise - data.

Source: xAR (Ren et al. 2025), section 3.3, Eqs. 2-4; t = 1 is noise, t = 0 is data.
Read next: glotok_ray/sampling/flow.py
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.config.generator import FlowConfig

_MOST_TIMES = 1 << 20


def draw_times(
    shape: tuple[int, ...],
    distribution: Literal["logit_normal", "uniform"],
    generator: torch.Generator,
) -> Float[Tensor, "..."]:
    """Independent times in [0, 1] on the generator's device; `shape` is (batch, entities) in training.

    "logit_normal" is the sigmoid of a standard normal (xAR's released code), "uniform" the plain
    reading of its text. Raises ValueError for another name.
    """
    if distribution == "logit_normal":
        return torch.randn(shape, generator=generator, device=generator.device).sigmoid()
    if distribution == "uniform":
        return torch.rand(shape, generator=generator, device=generator.device)
    raise ValueError(f"distribution = {distribution!r}: must be 'logit_normal' or 'uniform'")


def order_times(
    times: Float[Tensor, "b entities"],
    context: Literal["random", "clean", "increasing", "decreasing"],
) -> Float[Tensor, "b entities"]:
    """Sort each sample's times over the entities where the noise of the context rises or falls (xAR, Table 5)."""
    if context in ("random", "clean"):
        return times
    return times.sort(dim=1, descending=context == "decreasing").values


def drop_labels(
    labels: Int64[Tensor, " b"], probability: float, null_label: int, generator: torch.Generator
) -> Int64[Tensor, " b"]:
    """Replace each label by `null_label` with `probability`: guidance needs both cases."""
    draws = torch.rand(labels.shape, generator=generator, device=generator.device)
    return torch.where(draws.to(labels.device) < probability, null_label, labels)


def noisy_entities(
    clean: Float[Tensor, "b n c"],
    noise: Float[Tensor, "b n c"],
    times: Float[Tensor, "b entities"],
    lengths: Sequence[int],
) -> Float[Tensor, "b n c"]:
    """Eq. 2 of xAR: F = (1 - t) X + t E, with one time per entity; `lengths` are the entities' tokens, n in all."""
    if len(set(lengths)) == 1:
        t = times.repeat_interleave(lengths[0], dim=1)
    else:
        # Views side by side: repeats in a tensor would be a copy to the device, for which the host waits.
        parts = zip(times.split(1, dim=1), lengths, strict=True)
        t = torch.cat([part.expand(-1, length) for part, length in parts], dim=1)
    return (1 - t.unsqueeze(2)) * clean + t.unsqueeze(2) * noise


class NoisyBatch(NamedTuple):
    """Latents with the noise that an objective drew for them, and what the network sees of both."""

    tokens: Float[Tensor, "b n c"]
    times: Float[Tensor, "b entities"]
    noise: Float[Tensor, "b n c"]
    context: tuple[Float[Tensor, "b n c"], ...]
    """The clean latents where the network is shown them as context; else empty."""


def draw_noisy_batch(
    clean: Float[Tensor, "b n c"],
    lengths: Sequence[int],
    flow: FlowConfig,
    generator: torch.Generator,
) -> NoisyBatch:
    """Eq. 2 of xAR at times and noise from `generator`, whose device must be that of `clean`."""
    shape = (clean.shape[0], len(lengths))
    times = order_times(draw_times(shape, flow.time_distribution, generator), flow.context)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    context = (clean,) if flow.context == "clean" else ()
    return NoisyBatch(noisy_entities(clean, noise, times, lengths), times, noise, context)


def flow_matching_loss(
    velocity: Float[Tensor, "b n c"],
    clean: Float[Tensor, "b n c"],
    noise: Float[Tensor, "b n c"],
) -> Float[Tensor, ""]:
    """Eq. 4 of xAR: mean of (velocity - (E - X))^2 over all elements, in fp32 or better.

    All times weigh the same, and so do all tokens.
    """
    return F.mse_loss(*_compared(velocity, clean, noise))


def flow_matching_losses(
    velocity: Float[Tensor, "b n c"],
    clean: Float[Tensor, "b n c"],
    noise: Float[Tensor, "b n c"],
) -> Float[Tensor, " b"]:
    """`flow_matching_loss` of each image, whose mean it is."""
    return F.mse_loss(*_compared(velocity, clean, noise), reduction="none").flatten(1).mean(dim=1)


def best_linear_loss(mean_square: float, lengths: Sequence[int], flow: FlowConfig) -> float:
    """The loss of the best answer that is a multiple of the noisy latents: it knows their time and that the clean
    ones have this `mean_square`, and nothing else of them. The mean over a million draws of `flow`'s times, always the
    same ones; its standard error is below 0.001.
    """
    source = torch.Generator().manual_seed(0)
    drawn = draw_times((_MOST_TIMES // len(lengths), len(lengths)), flow.time_distribution, source)
    t = order_times(drawn, flow.context).double()
    # Of F = (1 - t) X + t E the multiple a F nearest to E - X has a = <E - X, F> / <F, F>.
    product, square = t - (1 - t) * mean_square, (1 - t) ** 2 * mean_square + t**2
    left = (1 + mean_square - product**2 / square).mean(dim=0)
    return float(left @ torch.tensor(lengths, dtype=torch.float64) / sum(lengths))


def _compared(velocity: Tensor, clean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    target = noise - clean
    precise = torch.promote_types(velocity.dtype, torch.float32)
    return velocity.to(precise), target.to(precise)
