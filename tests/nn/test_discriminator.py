"""The patch discriminator has the published size, a known receptive field, and can tell two kinds
apart.
"""

import pytest
import torch

from glotok_ray.config import DiscriminatorConfig
from glotok_ray.losses.adversarial import discriminator_hinge_loss
from glotok_ray.nn.discriminator import PatchDiscriminator


def test_default_size_is_patchgans():
    with torch.device("meta"):
        model = PatchDiscriminator(DiscriminatorConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_765_633
    assert len(model.state_dict()) == 22


@pytest.mark.parametrize(("side", "logits"), [(24, 1), (64, 6), (256, 30)])
def test_one_logit_per_patch(side, logits):
    with torch.device("meta"):
        model = PatchDiscriminator(DiscriminatorConfig())
        assert model(torch.empty(2, 3, side, side)).shape == (2, 1, logits, logits)


def test_a_logit_sees_seventy_pixels():
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(base_channels=4)).eval()
    images = torch.randn(1, 3, 160, 160, requires_grad=True)
    model(images)[0, 0, 9, 9].backward()
    seen = images.grad.abs().sum(dim=(0, 1))
    rows, columns = seen.sum(dim=1).nonzero(), seen.sum(dim=0).nonzero()
    assert len(rows) == len(columns) == 70


def test_weights_start_small_and_scales_near_one():
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(base_channels=16))
    assert float(model.layers[2].weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(model.layers[3].weight.detach().mean()) == pytest.approx(1.0, abs=0.02)


def test_it_learns_to_tell_rough_from_smooth():
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        rough, smooth = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 1, 1).expand(4, 3, 32, 32)
        loss = discriminator_hinge_loss(model(rough), model(smooth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5  # 1 where it cannot tell
