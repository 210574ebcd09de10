"""The loss of next codes: closed forms, and how codebooks share it."""

import math

import pytest
import torch

from glotok_ray.losses.token_prediction import (
    codebook_cross_entropies,
    token_prediction_loss,
    token_prediction_losses,
)


def test_terms_are_minus_the_mean_log_probability_of_the_codes() -> None:
    first = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).log().unsqueeze(0)
    second = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log().unsqueeze(0) + 3.0  # a shift is no matter
    codes = torch.tensor([[[1, 2], [0, 1]]])
    terms = codebook_cross_entropies([first, second], codes)
    assert terms[0].item() == pytest.approx(-(math.log(0.25) + math.log(0.7)) / 2)
    assert terms[1].item() == pytest.approx(-(math.log(0.9) + math.log(0.6)) / 2, abs=1e-6)
    assert (
        token_prediction_loss(codebook_cross_entropies([first, second], codes))
        == (terms[0] + terms[1]) / 2
    )


def test_codebooks_weigh_the_same_whatever_their_sizes() -> None:
    logits = [torch.zeros(2, 3, 1024), torch.zeros(2, 3, 4)]
    codes = torch.zeros(2, 2, 3, dtype=torch.int64)
    expected = (math.log(1024) + math.log(4)) / 2
    assert token_prediction_loss(codebook_cross_entropies(logits, codes)).item() == pytest.approx(
        expected
    )


def test_the_gradient_is_probability_minus_truth_over_positions_and_codebooks() -> None:
    logits = [torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 7, requires_grad=True)]
    codes = torch.stack([torch.randint(5, (2, 3)), torch.randint(7, (2, 3))], dim=1)
    token_prediction_loss(codebook_cross_entropies(logits, codes)).backward()
    for index, each in enumerate(logits):
        truth = torch.nn.functional.one_hot(codes[:, index], each.shape[-1])
        expected = (each.detach().softmax(dim=-1) - truth) / (2 * 3 * 2)
        assert each.grad is not None
        assert torch.allclose(each.grad, expected, atol=1e-6)


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits = torch.randn(2, 64, 4096).bfloat16()
    codes = torch.randint(4096, (2, 1, 64))
    loss = token_prediction_loss(codebook_cross_entropies([logits], codes))
    assert loss.dtype == torch.float32
    exact = token_prediction_loss(codebook_cross_entropies([logits.double()], codes))
    assert exact.dtype == torch.float64
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def test_each_codebook_needs_logits() -> None:
    codes = torch.zeros(1, 2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="1 tensors for 2 codebooks"):
        token_prediction_loss(codebook_cross_entropies([torch.zeros(1, 3, 4)], codes))


def test_losses_of_images_have_the_loss_of_the_batch_as_their_mean() -> None:
    logits = [torch.randn(3, 4, 5), torch.randn(3, 4, 7)]
    codes = torch.stack([torch.randint(5, (3, 4)), torch.randint(7, (3, 4))], dim=1)
    found = token_prediction_losses(logits, codes)
    one = token_prediction_loss(
        codebook_cross_entropies([each[1:2] for each in logits], codes[1:2])
    )
    assert found.shape == (3,)
    assert found[1].item() == pytest.approx(one.item())
    whole = token_prediction_loss(codebook_cross_entropies(logits, codes))
    assert found.mean().item() == pytest.approx(whole.item())
    with pytest.raises(ValueError, match="1 tensors for 2 codebooks"):
        token_prediction_losses(logits[:1], codes)
