"""L_res: the target is held fixed (Eq. 10); where its gradient goes in a model, tests/nn/test_tokenizer.py tells."""

import pytest
import torch

from glotok_ray.losses.residual import residual_loss


def test_closed_form():
    latent = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    codes = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    residual = torch.tensor([0.5, 0.0]).reshape(1, 2, 1, 1)
    assert float(residual_loss(latent, codes, residual)) == pytest.approx((0 + 1) / 2)


def test_zero_where_the_residual_restores_the_latent():
    torch.manual_seed(0)
    latent, codes = torch.randn(2, 2, 4, 3, 3)
    assert float(residual_loss(latent, codes, latent - codes)) == 0


def test_gradient_reaches_the_residual_alone():
    torch.manual_seed(0)
    latent, codes, residual = (torch.randn(2, 4, 3, 3, requires_grad=True) for _ in range(3))
    residual_loss(latent, codes, residual).backward()
    assert latent.grad is None
    assert codes.grad is None
    expected = 2 * (residual - (latent - codes)).detach() / residual.numel()
    torch.testing.assert_close(residual.grad, expected)


def test_shapes_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        residual_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
