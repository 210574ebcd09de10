"""Sampling from xAR: each entity is integrated from noise to data given the finished ones before it.

Source: xAR (Ren et al. 2025), section 3.2.3, Table 6 and its released sampler (Euler-Maruyama,
guidance that grows over the entities). Noise is keyed by (seed, image), so batching changes an image
by rounding alone.
Read next: glotok_ray/nn/xar.py
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.config.samplers import FlowSamplerConfig
from glotok_ray.nn.xar import XAR
from glotok_ray.sampling.image_random import check_sampling, image_generator


def guidance_weight(entity: int, num_entities: int, config: FlowSamplerConfig) -> float:
    """Guidance w of one entity: constant, or linear from 1 (first entity) to the full scale (last).

    A single entity counts as the last and gets the full value.
    """
    if config.guidance_schedule == "constant" or num_entities == 1:
        return config.guidance_scale
    return 1.0 + (config.guidance_scale - 1.0) * entity / (num_entities - 1)


def entity_steps(entity: int, num_entities: int, config: FlowSamplerConfig) -> int:
    """Network evaluations of one entity: `num_steps`, or falling linearly to `last_num_steps` in the last."""
    if not config.last_num_steps or num_entities == 1:
        return config.num_steps
    share = entity / (num_entities - 1)
    return round(config.num_steps + (config.last_num_steps - config.num_steps) * share)


def count_evaluations(num_entities: int, config: FlowSamplerConfig) -> int:
    """Network evaluations per image, those without a class and those that remember finished entities included."""
    weights = [guidance_weight(entity, num_entities, config) for entity in range(num_entities)]
    total = 0
    for entity, weight in enumerate(weights):
        times = solver_times(entity_steps(entity, num_entities, config), config)
        total += sum(2 if _frozen(weight, time, config) else 1 for time in times)
    return total + (num_entities - 1) * (2 if max(weights) > 1 else 1)


def solver_times(num_steps: int, config: FlowSamplerConfig) -> list[float]:
    """The times at which the network is evaluated, falling linearly from 1 to `final_time`."""
    return torch.linspace(1.0, config.final_time, num_steps, dtype=torch.float64).tolist()


def _frozen(weight: float, time: float, config: FlowSamplerConfig) -> bool:
    low, high = config.guidance_interval
    return weight != 1.0 and low <= time <= high


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
    num_steps: int,
    config: FlowSamplerConfig,
) -> Float[Tensor, " *axes"]:
    """Carry noise[0] from time 1 to time 0 in `num_steps` evaluations of `velocity(state, time)`.

    noise[1:] feeds the `num_steps` - 1 stochastic steps between the `solver_times` ("euler" reads
    noise[0] alone). The last step, to 0, is free of noise.
    """
    stochastic = config.solver == "euler_maruyama"
    grid = solver_times(num_steps, config)
    state = noise[0]
    for index, time in enumerate(grid):
        is_last = index == num_steps - 1
        delta = (0.0 if is_last else grid[index + 1]) - time
        direction = velocity(state, time)
        state = state + delta * (drift(state, direction, time) if stochastic else direction)
        if stochastic and not is_last:
            state = state + math.sqrt(2.0 * time * -delta) * noise[index + 1]
    return state


# Modulations are computed for as many steps at once as give a matrix product this many rows, which bounds their memory.
_ROWS_OF_MODULATIONS = 64


class _GuidedNetwork:
    """A model, its labels, its finished entities; when guided, an unconditional twin of each image."""

    def __init__(self, model: XAR, labels: Tensor, *, is_guided: bool, use_cache: bool) -> None:
        self.model = model
        self.batch_size = labels.shape[0]
        null = torch.full_like(labels, model.null_label)
        self.labels = torch.cat([labels, null]) if is_guided else labels
        self.finished: list[Tensor] = []
        self.cache = model.new_cache(self.labels.shape[0]) if use_cache else None
        self.times: list[float] = []
        self.modulations: dict[float, Tensor] = {}

    def begin(self, times: list[float]) -> None:
        """Tell at which times the next entity will be evaluated."""
        self.times, self.modulations = times, {}

    def velocity(self, state: Tensor, time: float, weight: float) -> Tensor:
        """v_u + w (v_c - v_u) of the entity after the finished ones; at w = 1 without the twins."""
        if weight == 1.0:
            return self._evaluate(state, time)
        conditional, unconditional = self._evaluate(torch.cat([state, state]), time).chunk(2)
        return unconditional + weight * (conditional - unconditional)

    def finish(self, state: Tensor) -> None:
        """Add a clean entity; later ones see it at time 0."""
        if self.cache is not None and len(self.finished) + 1 < self.model.config.num_entities:
            self._evaluate(self._twin(state, self.labels.shape[0]), 0.0)
        self.finished.append(state)

    def _twin(self, state: Tensor, rows: int) -> Tensor:
        return state if rows == self.batch_size else torch.cat([state, state])

    def _evaluate(self, noisy: Tensor, time: float) -> Tensor:
        rows, entity = noisy.shape[0], len(self.finished)
        labels = self.labels[:rows]
        if self.cache is not None:
            times = torch.full((rows,), time, device=noisy.device)
            cache = self.cache.rows(rows)
            velocity = self.model.forward_entity(
                noisy,
                times,
                labels,
                entity=entity,
                cache=cache,
                modulations=self._modulations(time, rows),
            )
        else:
            clean = [self._twin(finished, rows) for finished in self.finished]
            times = torch.zeros(rows, entity + 1, device=noisy.device)
            times[:, entity] = time
            velocity = self.model(torch.cat([*clean, noisy], dim=1), times, labels)
        return velocity[:, -noisy.shape[1] :].to(noisy.dtype)

    def _modulations(self, time: float, rows: int) -> Tensor | None:
        """Of one step; those of the steps after it are made with it. None for a time that `begin` did not tell."""
        count = _ROWS_OF_MODULATIONS // rows
        if time not in self.times or count < 2:
            return None
        if time not in self.modulations or self.modulations[time].shape[1] != rows:
            start = self.times.index(time)
            steps = self.times[start : start + count]
            times = torch.tensor(steps, device=self.labels.device)
            made = self.model.modulations(times, self.labels[:rows])
            self.modulations = dict(zip(steps, made.unbind(0), strict=True))
        return self.modulations[time]


@torch.no_grad()
def sample_latents(
    model: XAR,
    labels: Int64[Tensor, " b"],
    config: FlowSamplerConfig,
    *,
    image_ids: Sequence[int],
    seed: int,
    use_cache: bool = True,
) -> Float[Tensor, "b c h w"]:
    """Latents of one image per label, denormalised, in fp32 on the model's device.

    The caller snaps and decodes them. An image depends on its label, its id and `seed` alone, up to the rounding
    of sums in batches of another size. The solver's state is float64 (float32 on MPS, which has no
    float64); the network runs in its own dtype or under autocast. `use_cache` remembers finished
    entities instead of recomputing them, equal to rounding. Of a diverged network the latents are not finite.
    Raises ValueError when the model is in training mode and for labels, ids or a seed that do not fit.
    """
    check_sampling(model, labels, image_ids, seed)
    shape = model.config
    device = model.latent_scale.device
    precision = torch.float32 if device.type == "mps" else torch.float64
    generators = [image_generator(seed, image_id) for image_id in image_ids]
    count = shape.num_entities
    weights = [guidance_weight(entity, count, config) for entity in range(count)]
    network = _GuidedNetwork(
        model, labels.to(device), is_guided=max(weights) > 1, use_cache=use_cache
    )
    for entity, (weight, tokens) in enumerate(zip(weights, shape.entity_lengths, strict=True)):
        steps = entity_steps(entity, count, config)
        size = (steps if config.solver == "euler_maruyama" else 1, tokens, shape.channels)
        noise = torch.stack([torch.randn(size, generator=each) for each in generators], dim=1)

        def velocity(state: Tensor, time: float, weight: float = weight) -> Tensor:
            return network.velocity(state, time, weight if _frozen(weight, time, config) else 1.0)

        noise = noise.to(device=device, dtype=precision)
        network.begin(solver_times(steps, config))
        network.finish(integrate(velocity, noise, steps, config))
    latents = model.from_entities(torch.cat(network.finished, dim=1))
    return model.denormalize(latents).float()
