"""The local contrastive loss in closed form, and where its gradient goes."""

import math

import pytest
import torch

from glotok_ray.losses.contrastive import contrastive_loss


def test_alike_vectors_cost_log_b_and_matched_ones_less():
    alike = torch.ones(5, 3)
    assert float(contrastive_loss(alike, alike, temperature=1.0)) == pytest.approx(math.log(5))
    corners = torch.eye(5)
    # Its own cosine is 1, the four others' are 0.
    expected = -math.log(math.e / (math.e + 4))
    assert float(contrastive_loss(3 * corners, corners, temperature=1.0)) == pytest.approx(expected)
    assert float(contrastive_loss(corners, corners, temperature=0.01)) == pytest.approx(0, abs=1e-6)
    swapped = corners[[1, 2, 3, 4, 0]]
    expected = -math.log(1 / (math.e + 4))
    assert float(contrastive_loss(swapped, corners, temperature=1.0)) == pytest.approx(expected)


def test_the_target_is_held_fixed():
    torch.manual_seed(0)
    predicted, target = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    contrastive_loss(predicted, target, temperature=1.0).backward()
    assert target.grad is None
    before = contrastive_loss(predicted, target, temperature=1.0)
    after = contrastive_loss(predicted - 0.1 * predicted.grad, target, temperature=1.0)
    assert after < before
