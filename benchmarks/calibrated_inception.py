"""A stand-in for the published weights of Inception-v3: random, and calibrated so that images differ in features."""

from pathlib import Path

import torch
from torch import nn

from glotok_ray.pretrained.inception import empty_network

# Plain random weights give features that hardly depend on the image, and with them distances of rounding.
_CALIBRATION_IMAGES = 16
_CLASS_SCALE = 0.15


def write_calibrated_inception(path: Path) -> Path:
    """Write the state dict; takes about 5 seconds of one core."""
    generator = torch.Generator().manual_seed(0)
    network = empty_network().to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            # The mean over all batches, which is one here.
            module.momentum = None
    network.fc.weight.normal_(0, _CLASS_SCALE, generator=generator)
    network.fc.bias.zero_()
    network.train()
    network(calibrated_images(_CALIBRATION_IMAGES, seed=1))
    torch.save(network.state_dict(), path)
    return path


def calibrated_images(count: int, *, seed: int, side: int = 48) -> torch.Tensor:
    """Smooth random images, uint8 of shape (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * 255
    return nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").to(torch.uint8)
