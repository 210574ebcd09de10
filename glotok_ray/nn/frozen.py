"""Networks that never train: evaluation mode, and gradients for the images alone."""

from typing import Self

from torch import nn


class FrozenNetwork(nn.Module):
    """A network that stays in evaluation mode: a training loop's `.train()` would wake dropout and
    batch statistics.
    """

    def freeze(self) -> Self:
        """Stop the gradients of all parameters; called at the end of construction."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever `mode` says."""
        return super().train(False)
