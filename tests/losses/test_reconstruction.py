"""L_R is the mean squared error (Eq. 2), in full precision."""

import pytest
import torch

from glotok_ray.losses.reconstruction import reconstruction_loss


def test_closed_form_and_gradient():
    images = torch.zeros(2, 3, 4, 4)
    reconstruction = torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    loss = reconstruction_loss(images, reconstruction)
    assert loss.item() == pytest.approx(0.25)
    loss.backward()
    torch.testing.assert_close(reconstruction.grad, torch.full((2, 3, 4, 4), 2 * 0.5 / 96))


def test_half_precision_is_summed_in_full():
    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 3, 32, 32).bfloat16()
    loss = reconstruction_loss(a, b)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float((a - b).double().square().mean()), rel=1e-5)


def test_pixels_and_other_shapes_are_refused():
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    for images, reconstruction in ((pixels, pixels + 1), (torch.zeros(2, 3, 4, 4), torch.ones(1))):
        with pytest.raises(ValueError, match=r"floating-point numbers in \[-1, 1\] of one shape"):
            reconstruction_loss(images, reconstruction)
