"""The stop before a step on figures that are not finite.

Read next: glotok_ray/training/step.py
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from glotok_ray.training.worker import Worker


def check_finite(terms: Mapping[str, Tensor], step: int, worker: Worker) -> None:
    """Raise FloatingPointError, on all workers alike, that names the step and every term that is not finite anywhere.

    To be called before the gradients of `terms` reach an optimizer: the weights are then still those of the last step.
    """
    values = torch.stack([value.detach().float().reshape(()) for value in terms.values()])
    broken = worker.all_sum((~torch.isfinite(values)).float()).tolist()
    names = [name for name, workers in zip(terms, broken, strict=True) if workers]
    if names:
        raise FloatingPointError(
            f"step {step}: {', '.join(names)} not finite; the weights are still those of the step before. Start again "
            "under another --name, with a lower --optimizer.learning-rate or --scaling.precision fp32 (in "
            "jobs.train_tokenizer from the newest checkpoint's weights: --initial-path CHECKPOINT)"
        )
