"""EfficientNet-Lite0 with its normalisations folded in is the same network."""

import copy

import pytest
import torch

from glotok_ray.pretrained.feature_networks import EfficientNetLite0


@pytest.fixture(scope="module")
def networks() -> tuple[EfficientNetLite0, EfficientNetLite0]:
    plain = EfficientNetLite0()
    return plain, copy.deepcopy(plain).fused()


# Odd and even sides are padded differently at stride 2.
@pytest.mark.parametrize("sides", [(48, 48), (37, 64), (33, 45)])
def test_fused_gives_the_same_maps(networks, sides):
    plain, fused = networks
    images = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for a, b in zip(plain.features(images), fused.features(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.logits(images), fused.logits(images), rtol=1e-4, atol=1e-4)


def test_fused_carries_the_same_gradient_in_double(networks):
    plain = copy.deepcopy(networks[0]).double()
    # In double precision from the start: a ReLU6 at its corner would else tell the rounding of the weights.
    fused = copy.deepcopy(plain).fused()
    images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1)).double()
    gradients = []
    for network in (plain, fused):
        leaf = images.clone().requires_grad_()
        loss = sum(map_.square().mean() for map_ in network.features(leaf))
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)


def test_fused_holds_no_normalisation_and_nothing_that_trains(networks):
    fused = networks[1]
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not [p for p in fused.parameters() if p.requires_grad]
    assert not fused.training
