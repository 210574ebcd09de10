"""Dropout as defined: a share of zeros, and the rest scaled."""

import pytest
import torch

from glotok_ray.nn.dropout import Dropout, drop


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_the_share_is_dropped_and_the_rest_scaled(probability: float) -> None:
    torch.manual_seed(0)
    found = drop(torch.full((1000, 200), 3.0), probability)
    kept = found[found != 0]
    # Five standard deviations of a share of 200,000 draws.
    assert 1 - kept.numel() / found.numel() == pytest.approx(probability, abs=0.0056)
    assert torch.allclose(kept, torch.tensor(3.0 / (1 - probability)))


def test_gradients_pass_where_values_were_kept() -> None:
    values = torch.ones(50, 50, requires_grad=True)
    found = drop(values, 0.3)
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert torch.equal(gradient, found.detach())


def test_the_dtype_stays() -> None:
    assert drop(torch.ones(8, dtype=torch.bfloat16), 0.1).dtype == torch.bfloat16
    assert drop(torch.ones(8, dtype=torch.float64), 0.1).dtype == torch.float64


def test_nothing_is_dropped_in_evaluation_or_at_probability_zero() -> None:
    values = torch.randn(40)
    assert Dropout(0.9).eval()(values) is values
    assert Dropout(0.0).train()(values) is values
    assert (Dropout(0.9).train()(values) == 0).any()
