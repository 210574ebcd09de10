"""The hinge losses: values at the margins, and which way they push."""

import pytest
import torch

from glotok_ray.losses.adversarial import discriminator_hinge_loss, generator_hinge_loss


def logits(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_generator_loss_is_the_negative_mean_logit():
    fake = logits(1.0, 5.0).requires_grad_()
    loss = generator_hinge_loss(fake)
    assert loss.item() == -3
    loss.backward()
    assert fake.grad.flatten().tolist() == [-0.5, -0.5]


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [
        (0.0, 0.0, 1.0),
        (1.0, -1.0, 0.0),
        (9.0, -9.0, 0.0),
        (-1.0, 1.0, 2.0),
        (1.0, 1.0, 1.0),
        (-1.0, -1.0, 1.0),
    ],
)
def test_discriminator_loss_at_its_corners(real, fake, expected):
    assert float(discriminator_hinge_loss(logits(real), logits(fake))) == expected


def test_discriminator_pulls_real_up_and_fake_down_inside_the_margins_only():
    real, fake = logits(0.0, 2.0).requires_grad_(), logits(0.0, -2.0).requires_grad_()
    discriminator_hinge_loss(real, fake).backward()
    assert real.grad.flatten().tolist() == [-0.25, 0.0]
    assert fake.grad.flatten().tolist() == [0.25, 0.0]
