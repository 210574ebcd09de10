"""Flow matching with noisy context: each cell has its own time; the network learns noise - data.

Source: xAR (Ren et al. 2025), section 3.3, Eqs. 2-4; t = 1 is noise, t = 0 is data.
Read next: glotok_ray/sampling/flow.py
"""

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
    """Independent times in [0, 1] on the generator's device; `shape` is (batch, cells) in training.

    "logit_normal" is the sigmoid of a standard normal (xAR's released code), "uniform" the plain
    reading of its text. Raises ValueError for another name.
    """
    if distribution == "logit_normal":
        return torch.randn(shape, generator=generator, device=generator.device).sigmoid()
    if distribution == "uniform":
        return torch.rand(shape, generator=generator, device=generator.device)
    raise ValueError(f"distribution = {distribution!r}: must be 'logit_normal' or 'uniform'")


def drop_labels(
    labels: Int64[Tensor, " b"], probability: float, null_label: int, generator: torch.Generator
) -> Int64[Tensor, " b"]:
    """Replace each label by `null_label` with `probability`: guidance needs both cases."""
    draws = torch.rand(labels.shape, generator=generator, device=generator.device)
    return torch.where(draws.to(labels.device) < probability, null_label, labels)


def noisy_cells(
    clean: Float[Tensor, "b cells tokens c"],
    noise: Float[Tensor, "b cells tokens c"],
    times: Float[Tensor, "b cells"],
) -> Float[Tensor, "b cells tokens c"]:
    """Eq. 2 of xAR: F = (1 - t) X + t E, with one time per cell."""
    t = times[:, :, None, None]
    return (1 - t) * clean + t * noise


def flow_matching_loss(
    velocity: Float[Tensor, "b cells tokens c"],
    clean: Float[Tensor, "b cells tokens c"],
    noise: Float[Tensor, "b cells tokens c"],
) -> Float[Tensor, ""]:
    """Eq. 4 of xAR: mean of (velocity - (E - X))^2 over all elements, in fp32 or better.

    All times weigh the same.
    """
    target = noise - clean
    precise = torch.promote_types(velocity.dtype, torch.float32)
    return F.mse_loss(velocity.to(precise), target.to(precise))
