"""Inputs of generators whose values mean nothing, for counting what a forward pass keeps and computes.

Read next: glotok_ray/training/activations.py
"""

import torch
from torch import Tensor

from glotok_ray.config.runs import AnyGeneratorRun, FARRun, RQRun, VARRun


def generator_inputs(
    config: AnyGeneratorRun, count: int, device: torch.device | None = None
) -> tuple[Tensor, ...]:
    """Inputs of a generator's forward pass in training, of `count` images, whose values mean nothing."""
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    if isinstance(config, FARRun):
        shape = (count, len(config.model.codebooks), config.model.num_positions)
        return torch.zeros(shape, dtype=torch.int64, device=device), labels
    if isinstance(config, RQRun):
        sizes = config.model
        shape = (count, sizes.num_positions, sizes.num_residuals, sizes.code_width)
        return torch.empty(shape, device=device), labels
    if isinstance(config, VARRun):
        # The class is the first scale's input, of one token.
        size = (count, config.model.num_tokens - 1, config.model.code_width)
        masked = torch.zeros(size[:2], dtype=torch.bool, device=device)
        inputs = torch.empty(size, device=device), labels
        return (*inputs, masked) if config.model.input_masking > 0 else inputs
    model = config.model
    noisy = torch.empty(count, model.num_tokens, model.channels, device=device)
    times = torch.empty(count, model.num_entities, dtype=torch.float32, device=device)
    context = (noisy.clone(),) if config.flow.context == "clean" else ()
    return noisy, times, labels, *context
