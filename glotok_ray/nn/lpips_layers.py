"""LPIPS in VGG16, layer by layer as the packages lpips and torchvision build it, without its weights.

Memory is counted by its shapes, so that a dry run need not import those packages, which takes seconds.
Read next: glotok_ray/nn/perceptual.py
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_EPSILON = 1e-10
# Channels and convolutions of VGG16's stages, up to the last ReLU of each.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class LPIPSLayers(nn.Module):
    """What `lpips.LPIPS(net="vgg")` holds and computes; the numbers of its parameters mean nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = _VGG16()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            for channels, _ in _STAGES
        )

    def forward(
        self, x: Float[Tensor, "b 3 H W"], y: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, "b 1 1 1"]:
        """The distance of each pair of images."""
        maps_of_x, maps_of_y = (self.net(self.scaling_layer(images)) for images in (x, y))
        parts = [
            head((_unit(a) - _unit(b)) ** 2).mean([2, 3], keepdim=True)
            for head, a, b in zip(self.heads, maps_of_x, maps_of_y, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


class _Scaling(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.empty(1, 3, 1, 1))
        self.register_buffer("scale", torch.empty(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.shift) / self.scale


class _VGG16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        entering, stages = 3, []
        for channels, convolutions in _STAGES:
            layers: list[nn.Module] = [nn.MaxPool2d(2, 2)] if stages else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(entering, channels, 3, padding=1), nn.ReLU(inplace=True)]
                entering = channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


def _unit(x: Tensor) -> Tensor:
    return x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + _EPSILON)
