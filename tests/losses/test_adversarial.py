"""The adversarial losses: values at the margins, and which way they push."""

import math

import pytest
import torch

from glotok_ray.losses.adversarial import (
    discriminator_cross_entropy_loss,
    discriminator_hinge_loss,
    discriminator_loss,
    generator_hinge_loss,
    generator_loss,
    generator_minimax_loss,
    generator_non_saturating_loss,
    lecam_penalty,
    moved_anchors,
)


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


KINDS = ("hinge", "non_saturating", "vanilla")


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_teach_and_push_the_right_way(kind):
    """Real logits up, fake ones down for the discriminator; fake ones up for the generator."""
    real, fake = logits(-0.5, 0.5).requires_grad_(), logits(-0.5, 0.5).requires_grad_()
    discriminator_loss(real, fake, kind).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    made = logits(-0.5, 0.5).requires_grad_()
    generator_loss(made, kind).backward()
    assert (made.grad < 0).all()


def test_cross_entropy_values():
    real, fake = logits(0.3), logits(-0.7)
    sigmoid = torch.sigmoid
    expected = 0.5 * (-math.log(sigmoid(real)) - math.log(1 - sigmoid(fake)))
    assert float(discriminator_cross_entropy_loss(real, fake)) == pytest.approx(expected)
    assert float(discriminator_cross_entropy_loss(logits(0.0), logits(0.0))) == pytest.approx(
        math.log(2)
    )
    assert float(generator_non_saturating_loss(fake)) == pytest.approx(-math.log(sigmoid(fake)))
    assert float(generator_minimax_loss(fake)) == pytest.approx(math.log(1 - sigmoid(fake)))


def test_the_minimax_game_saturates_where_the_discriminator_wins_and_the_other_does_not():
    for loss, slope in ((generator_minimax_loss, 0.0), (generator_non_saturating_loss, -1.0)):
        fake = logits(-20.0).requires_grad_()
        loss(fake).backward()
        assert float(fake.grad) == pytest.approx(slope, abs=1e-6)


def test_lecam_pulls_logits_towards_the_other_sides_anchor():
    anchors = torch.tensor([1.0, -1.0])  # of real, of fake
    real, fake = logits(2.0, -3.0).requires_grad_(), logits(0.0, 4.0).requires_grad_()
    penalty = lecam_penalty(real, fake, anchors)
    assert penalty.item() == pytest.approx((3.0**2 + 0) / 2 + (1.0**2 + 0) / 2)
    penalty.backward()
    assert real.grad.flatten().tolist() == [3.0, 0.0]
    assert fake.grad.flatten().tolist() == [-1.0, 0.0]


def test_anchors_move_by_their_decay():
    moved = moved_anchors(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]), decay=0.75)
    torch.testing.assert_close(moved, torch.tensor([1.5, 1.5]))
