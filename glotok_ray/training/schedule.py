"""The learning rate as a function of the step, and the seed of every step's randomness."""

import hashlib
import math

import torch

from glotok_ray.config.training import OptimizerConfig


def learning_rate(step: int, total_steps: int, optimizer: OptimizerConfig) -> float:
    """The learning rate of optimizer step `step`, 0-based in fractions of the run: warm-up, hold, and a
    fall along a cosine (xAR) or a line (VAR, IBQ).
    """
    peak, final = optimizer.learning_rate, optimizer.final_learning_rate
    warmup_steps = optimizer.warmup_fraction * total_steps
    if step < warmup_steps:
        return peak * step / warmup_steps
    if optimizer.schedule == "constant":
        return peak
    held = (
        optimizer.hold_fraction
        if optimizer.schedule.startswith("warmup_hold")
        else optimizer.warmup_fraction
    )
    start = held * total_steps
    if step < start:
        return peak
    progress = min(1.0, (step - start) / max(1.0, total_steps - start))
    if optimizer.schedule == "warmup_hold_linear":
        return peak + (final - peak) * progress
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one worker: a resumed run draws what the uninterrupted one drew.

    torch's CPU generator keeps 32 bits, so the key stays below that: no two of 4 million steps of
    1024 workers share one.
    """
    offset = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest())
    torch.manual_seed((offset + step * 1024 + rank) % 2**32)


def step_generator(device: torch.device) -> torch.Generator:
    """A generator on `device` that follows the seed of the present step, with a stream of its own.

    Seeded with a number drawn from torch's generator, not with its seed: dropout draws from that one, and would repeat
    the noise. Call it once per step.
    """
    return torch.Generator(device).manual_seed(int(torch.randint(2**31, ())))
