"""The exponential moving average of the weights, in fp32, updated every optimizer step (xAR: decay 0.9999)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Averaged parameters; buffers are copied, not averaged."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.parameters = {
            name: value.detach().float().clone() for name, value in module.named_parameters()
        }

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Move toward `parameters` after optimizer step `step` (0-based).

        The decay ramps up as (1 + step) / (10 + step): early averages would otherwise be the initial weights.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in parameters:
            self.parameters[name].lerp_(value.float(), 1 - decay)

    def state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """A state dict for `module`: averaged parameters, the module's own buffers."""
        return {**module.state_dict(), **self.parameters}
