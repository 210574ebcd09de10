"""What all workers must agree on before a step: metrics that are not finite stop it, and other flags ride along.

One all-reduce and one read by the host per optimizer step, however many micro batches it has.
Read next: glotok_ray/training/tokenizer_step.py
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from glotok_ray.training.worker import Worker


class StepFlags:
    """Flags of one optimizer step, kept on the device until `verdict` reads all of them at once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._broken: dict[tuple[str, ...], Tensor] = {}
        self._carried: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        """What was carried along in the last step, summed over the workers."""

    def carry(self, name: str, value: float) -> None:
        """Send a number with the next verdict, whose sum over the workers is then in `sums`; every worker must carry
        the same names in the same order. fp32: whole numbers below 2^24 arrive exactly.
        """
        self._carried[name] = value

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take the scalar terms of one micro batch; the host does not wait for them."""
        values = torch.stack([value.detach().float().reshape(()) for value in terms.values()])
        broken, names = ~torch.isfinite(values), tuple(terms)
        self._broken[names] = self._broken[names] | broken if names in self._broken else broken

    def verdict(self, step: int) -> None:
        """Raise FloatingPointError, on all workers alike, that names the step and every term that is not finite in any
        micro batch of any worker; forgets them, and fills `sums`.

        To be called before any optimizer takes its step: the weights are then still those of the last one.
        """
        carried, device = self._carried, self._worker.device
        # Filled on the device: a tensor made of a list is a copy that the host waits for.
        riders = [torch.full((1,), value, device=device) for value in carried.values()]
        flags = [broken.float() for broken in self._broken.values()]
        names = [name for group in self._broken for name in group]
        self._broken, self._carried, self.sums = {}, {}, {}
        if not names and not carried:
            return
        found = self._worker.all_sum(torch.cat([*flags, *riders])).tolist()
        self.sums = dict(zip(carried, found[len(names) :], strict=True))
        broken_names = [name for name, workers in zip(names, found, strict=False) if workers]
        if broken_names:
            raise FloatingPointError(
                f"step {step}: {', '.join(broken_names)} not finite; the weights are still those of the step before. "
                "Start again under another --name, with a lower --optimizer.learning-rate or --scaling.precision fp32 "
                "(in jobs.train_tokenizer from the newest checkpoint's weights: --initial-path CHECKPOINT)"
            )
