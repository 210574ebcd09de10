"""The residual predictor starts as the identity of `refine` and learns from there."""

import torch

from glotok_ray.config import ResidualConfig
from glotok_ray.nn.residual import ResidualPredictor, refine

SMALL = ResidualConfig(width=16, num_heads=4, mlp_ratio=2)


def test_refine_is_the_identity_at_the_start():
    torch.manual_seed(0)
    predictor, codes = ResidualPredictor(SMALL, 8, 4), torch.randn(2, 8, 4, 4)
    residual = predictor(codes)
    assert residual.shape == codes.shape
    assert torch.equal(refine(codes, residual), codes)


def test_refine_adds_elementwise():
    assert refine(torch.ones(1, 2, 1, 1), torch.full((1, 2, 1, 1), 0.5)).flatten().tolist() == [
        1.5,
        1.5,
    ]


def test_default_size():
    with torch.device("meta"):
        predictor = ResidualPredictor(ResidualConfig(), 8, 16)
    block = 3_152_384
    expected = (8 * 512 + 512) + 256 * 512 + block + 2 * 512 + (512 * 8 + 8)
    assert sum(parameter.numel() for parameter in predictor.parameters()) == expected


def test_it_learns_a_position_dependent_residual():
    torch.manual_seed(0)
    predictor, codes = ResidualPredictor(SMALL, 2, 3), torch.randn(1, 2, 1, 1).expand(4, 2, 3, 3)
    target = torch.randn(1, 2, 3, 3).expand(4, 2, 3, 3)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-2)
    for _ in range(120):
        loss = (predictor(codes) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The same code everywhere: only positions can tell these targets apart.
    assert loss < 0.02 * target.square().mean()


def test_the_zeroed_projection_gets_a_gradient_from_the_first_step():
    torch.manual_seed(0)
    predictor = ResidualPredictor(SMALL, 8, 4)
    predictor(torch.randn(2, 8, 4, 4)).sum().backward()
    assert predictor.contract.weight.grad.abs().sum() > 0


def test_output_keeps_the_dtype_of_the_codes():
    predictor = ResidualPredictor(SMALL, 8, 4).bfloat16()
    assert predictor(torch.randn(1, 8, 4, 4)).dtype == torch.float32
