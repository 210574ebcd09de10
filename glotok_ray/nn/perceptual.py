"""The perceptual distance L_P (paper section 3.1), measured in a frozen network; gradients reach the images.

Where the networks' weights come from: glotok_ray/pretrained/perceptual.py
"""

from collections.abc import Callable
from typing import Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.nn.frozen import FrozenNetwork


class StageNetwork(Protocol):
    """A module that gives the maps of its stages."""

    def features(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """From fine to coarse."""
        ...


class PerceptualDistance(FrozenNetwork):
    """LPIPS's distance with equal channel weights: there are no learned heads for such a network.

    At every stage the channels are scaled to unit length, their squared differences summed and
    averaged over positions.
    """

    def __init__(self, network: StageNetwork) -> None:
        super().__init__()
        self.network = network
        self.freeze()

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, ""]:
        """L_P: the sum over stages, averaged over the batch; images in [-1, 1]."""
        pairs = zip(self.network.features(x), self.network.features(y), strict=True)
        return torch.stack([_stage_distance(a, b) for a, b in pairs]).sum()


class LearnedPerceptualDistance(FrozenNetwork):
    """LPIPS in VGG16, as the package lpips computes it; the package's learned heads come with it.

    `.to(torch.bfloat16)` reaches VGG16 alone: distances and heads stay in fp32.
    """

    def __init__(self, network: nn.Module) -> None:
        """`network` is the package's `lpips.LPIPS` of VGG16, its weights loaded, or its `LPIPSLayers` without any."""
        super().__init__()
        self.network = network
        self.network.add_module("net", _Trunk(network.net))  # type: ignore[arg-type]
        # The heads hold dropout, which FrozenNetwork never lets a training loop wake.
        self.freeze()

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, ""]:
        """L_P: the sum over stages, averaged over the batch, in fp32; images in [-1, 1]."""
        return self.network(x.float(), y.float()).mean()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to()` and its kin call: the trunk follows in all, the rest to other devices alone."""
        for name, part in self.network.named_children():
            part._apply(fn if name == "net" else lambda tensor: tensor.to(fn(tensor).device))
        return self


class _Trunk(nn.Module):
    """VGG16 in the precision of its weights between images and maps in fp32."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """Five maps, from the full side to 1/16 of it."""
        precision = next(self.trunk.parameters()).dtype
        return [stage.float() for stage in self.trunk(images.to(precision))]


class NoDistance(nn.Module):
    """Stands in where loss.perceptual_weight is 0: nothing is computed and no file is needed."""

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, ""]:
        """Zero."""
        return y.new_zeros(())


def unit_difference(
    a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Squared difference of the two maps after their channels were scaled to unit length at every
    position.
    """
    return (_unit(a) - _unit(b)).square()


def _stage_distance(a: Tensor, b: Tensor) -> Tensor:
    # In fp32 also where the network runs in bf16: differences of nearly equal maps would be lost.
    return unit_difference(a.float(), b.float()).sum(dim=1).mean()


def _unit(x: Tensor) -> Tensor:
    # The epsilon under the root keeps the gradient finite where all channels are 0.
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt().clamp_min(1e-10)
