"""LPIPS without its packages has the shapes of LPIPS with them."""

import pytest
import torch

from glotok_ray.config import TokenizerLossConfig
from glotok_ray.pretrained.lpips_weights import empty_lpips
from glotok_ray.pretrained.perceptual import learned_distance, perceptual_without_weights
from glotok_ray.training.activations import saved_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_counted_is_what_the_package_keeps(dtype: torch.dtype) -> None:
    counted = perceptual_without_weights(TokenizerLossConfig(perceptual_network="lpips_vgg"))
    package = learned_distance(empty_lpips("vgg").state_dict(), "no weights").to("meta")
    images = torch.empty(2, 3, 64, 96, device="meta")
    sizes, kept, shapes = [], [], []
    for network in (counted, package):
        network = network.to(dtype)
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
        shapes.append(sorted(tuple(parameter.shape) for parameter in network.parameters()))
        kept.append(saved_bytes(network, images, torch.empty_like(images, requires_grad=True)))
    assert sizes[0] == sizes[1] == 14_716_160
    assert shapes[0] == shapes[1]
    assert kept[0] == kept[1] > 0
