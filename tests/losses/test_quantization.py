"""L_Q: its value, and which side each stop-gradient leaves alone (Eq. 1)."""

import pytest
import torch

from glotok_ray.losses.quantization import quantization_loss


def test_closed_form():
    latent, codes = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)
    # Mean squared distance 5, once for the codes and beta times for the encoder.
    assert float(quantization_loss(latent, codes, commitment_weight=0.25)) == pytest.approx(
        5 * 1.25
    )


def test_each_stop_gradient_acts_on_its_side():
    torch.manual_seed(0)
    latent = torch.randn(2, 4, 3, 3, requires_grad=True)
    codes = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantization_loss(latent, codes, commitment_weight=0.0).backward()
    assert latent.grad.abs().sum() == 0  # without commitment only the codes move
    torch.testing.assert_close(codes.grad, 2 * (codes - latent).detach() / codes.numel())
    codes.grad = None
    quantization_loss(latent, codes, commitment_weight=0.25).backward()
    torch.testing.assert_close(latent.grad, 0.25 * 2 * (latent - codes).detach() / codes.numel())
    torch.testing.assert_close(codes.grad, 2 * (codes - latent).detach() / codes.numel())


def test_zero_where_codes_match():
    latent = torch.randn(1, 2, 3, 3)
    assert float(quantization_loss(latent, latent.clone(), commitment_weight=0.25)) == 0


def test_shapes_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        quantization_loss(torch.zeros(2, 3, 4, 4), torch.zeros(3, 1, 1), commitment_weight=0.25)
