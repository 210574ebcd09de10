"""Flow matching with noisy context: each entity has its own time; the network learns noise - data.

Source: xAR (Ren et al. 2025), section 3.3, Eqs. 2-4; t = 1 is noise, t = 0 is data.
Read next: glotok_ray/sampling/flow.py
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


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


def flow_matching_loss(
    velocity: Float[Tensor, "b n c"],
    clean: Float[Tensor, "b n c"],
    noise: Float[Tensor, "b n c"],
) -> Float[Tensor, ""]:
    """Eq. 4 of xAR: mean of (velocity - (E - X))^2 over all elements, in fp32 or better.

    All times weigh the same, and so do all tokens.
    """
    target = noise - clean
    precise = torch.promote_types(velocity.dtype, torch.float32)
    return F.mse_loss(velocity.to(precise), target.to(precise))
