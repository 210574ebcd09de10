"""Sampling from xAR: each cell is integrated from noise to data given the finished cells before it.

Source: xAR (Ren et al. 2025), section 3.2.3, Table 6 and its released sampler (Euler-Maruyama,
guidance that grows over the cells). Noise is keyed by (seed, image): batching changes no image.
Read next: glotok_ray/nn/xar.py
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.config import SamplerConfig
from glotok_ray.nn.xar import XAR


def image_generator(seed: int, image_id: int) -> torch.Generator:
    """The CPU generator of one image's noise.

    Torch's CPU generator keeps 32 bits of its seed, so images count up from a hash of `seed`:
    no two of 2^32 ids share a stream in a run, and runs of different seeds start far apart.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=4).digest()
    start = int.from_bytes(digest, "little")
    return torch.Generator().manual_seed((start + int(image_id)) % 2**32)


def guidance_weight(cell: int, num_cells: int, config: SamplerConfig) -> float:
    """Guidance w of one cell: constant, or linear from 1 (first cell) to the full scale (last).

    A single cell counts as the last and gets the full value.
    """
    if config.guidance_schedule == "constant" or num_cells == 1:
        return config.guidance_scale
    return 1.0 + (config.guidance_scale - 1.0) * cell / (num_cells - 1)


def drift(
    state: Float[Tensor, " *axes"], velocity: Float[Tensor, " *axes"], time: float
) -> Float[Tensor, " *axes"]:
    """Drift of the reverse process with diffusion w(t) = 2t: v - w/2 * score = x + (2 - t) v.

    The score of the linear path is -(x + (1 - t) v) / t, so nothing is divided by t.
    """
    return state + (2.0 - time) * velocity


def integrate(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Float[Tensor, " steps *axes"],
    config: SamplerConfig,
) -> Float[Tensor, " *axes"]:
    """Carry noise[0] from time 1 to time 0 in `num_steps` evaluations of `velocity(state, time)`.

    The times fall linearly from 1 to `final_time`; noise[1:] feeds the `num_steps` - 1 stochastic
    steps between them ("euler" reads noise[0] alone). The last step, to 0, is free of noise.
    """
    stochastic = config.solver == "euler_maruyama"
    grid = torch.linspace(1.0, config.final_time, config.num_steps, dtype=torch.float64).tolist()
    state = noise[0]
    for index, time in enumerate(grid):
        is_last = index == config.num_steps - 1
        delta = (0.0 if is_last else grid[index + 1]) - time
        direction = velocity(state, time)
        state = state + delta * (drift(state, direction, time) if stochastic else direction)
        if stochastic and not is_last:
            state = state + math.sqrt(2.0 * time * -delta) * noise[index + 1]
    return state


class _GuidedNetwork:
    """A model, its labels, its finished cells; when guided, an unconditional twin of each image."""

    def __init__(self, model: XAR, labels: Tensor, *, is_guided: bool, use_cache: bool) -> None:
        self.model = model
        self.batch_size = labels.shape[0]
        null = torch.full_like(labels, model.null_label)
        self.labels = torch.cat([labels, null]) if is_guided else labels
        self.finished: list[Tensor] = []
        self.cache = model.new_cache(self.labels.shape[0]) if use_cache else None

    def velocity(self, state: Tensor, time: float, weight: float) -> Tensor:
        """v_u + w (v_c - v_u) of the cell after the finished ones; at w = 1 without the twins."""
        if weight == 1.0:
            return self._evaluate(state, time)
        conditional, unconditional = self._evaluate(torch.cat([state, state]), time).chunk(2)
        return unconditional + weight * (conditional - unconditional)

    def finish(self, state: Tensor) -> None:
        """Add a clean cell; later cells see it at time 0."""
        if self.cache is not None and len(self.finished) + 1 < self.model.config.num_cells:
            self._evaluate(self._twin(state, self.labels.shape[0]), 0.0)
        self.finished.append(state)

    def _twin(self, state: Tensor, rows: int) -> Tensor:
        return state if rows == self.batch_size else torch.cat([state, state])

    def _evaluate(self, noisy: Tensor, time: float) -> Tensor:
        rows, cell = noisy.shape[0], len(self.finished)
        labels = self.labels[:rows]
        if self.cache is not None:
            times = torch.full((rows,), time, device=noisy.device)
            cache = self.cache.rows(rows)
            velocity = self.model.forward_cell(noisy, times, labels, cell=cell, cache=cache)
        else:
            cells = [self._twin(clean, rows) for clean in self.finished]
            times = torch.zeros(rows, cell + 1, device=noisy.device)
            times[:, cell] = time
            velocity = self.model(torch.stack([*cells, noisy], dim=1), times, labels)[:, cell]
        return velocity.to(noisy.dtype)


@torch.no_grad()
def sample_latents(
    model: XAR,
    labels: Int64[Tensor, " b"],
    config: SamplerConfig,
    *,
    image_ids: Sequence[int],
    seed: int,
    use_cache: bool = True,
) -> Float[Tensor, "b c h w"]:
    """Latents of one image per label, denormalised, in fp32 on the model's device.

    The caller snaps and decodes them. An image depends on its label, its id and `seed` alone. The
    solver's state is float64 (float32 on MPS, which has no float64); the network runs in its own
    dtype or under autocast. `use_cache` remembers finished cells instead of recomputing them, equal
    to rounding. Raises ValueError when the model is in training mode or `image_ids` does not hold
    one id per label.
    """
    if model.training:
        raise ValueError("model: is in training mode, so dropout is on; call model.eval() first")
    if len(image_ids) != labels.shape[0]:
        raise ValueError(
            f"image_ids: {len(image_ids)} ids for {labels.shape[0]} labels; give one each"
        )
    shape = model.config
    device = model.latent_scale.device
    precision = torch.float32 if device.type == "mps" else torch.float64
    generators = [image_generator(seed, image_id) for image_id in image_ids]
    draws = config.num_steps if config.solver == "euler_maruyama" else 1
    size = (draws, shape.tokens_per_cell, shape.channels)
    weights = [guidance_weight(cell, shape.num_cells, config) for cell in range(shape.num_cells)]
    is_guided = any(weight != 1.0 for weight in weights)
    network = _GuidedNetwork(model, labels.to(device), is_guided=is_guided, use_cache=use_cache)
    for weight in weights:
        noise = torch.stack([torch.randn(size, generator=each) for each in generators], dim=1)
        noise = noise.to(device=device, dtype=precision)
        network.finish(
            integrate(lambda state, time, w=weight: network.velocity(state, time, w), noise, config)
        )
    latents = model.from_cells(torch.stack(network.finished, dim=1))
    return model.denormalize(latents).float()
