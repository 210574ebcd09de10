"""Cosine look-up: hand-made codebooks, the straight-through gradient, and full precision under
autocast.
"""

import pytest
import torch
from torch.nn import functional as F

from glotok_ray.config import CodebookConfig
from glotok_ray.nn.quantizer import NO_CODE, VectorQuantizer, nearest_codes, straight_through

COMPASS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -0.5]])


def test_nearest_codes_go_by_direction_not_by_length():
    z = torch.tensor([[0.1, 0.05], [0.3, 9.0], [-0.01, 0.009], [0.2, -0.3]])
    assert nearest_codes(z, COMPASS).tolist() == [0, 1, 2, 3]
    assert nearest_codes(z * 100, COMPASS * 7).tolist() == [0, 1, 2, 3]


def test_nearest_codes_over_several_blocks_equal_the_smallest_distances():
    torch.manual_seed(0)
    z, codebook = torch.randn(9000, 4), torch.randn(32, 4)
    distances = torch.cdist(F.normalize(z, dim=1), F.normalize(codebook, dim=1))
    assert torch.equal(nearest_codes(z, codebook), distances.argmin(dim=1))


def test_nearest_codes_ignore_autocast():
    torch.manual_seed(0)
    z, codebook = torch.randn(1000, 8), torch.randn(4096, 8)
    expected = nearest_codes(z, codebook)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_codes(z, codebook), expected)
    lowered = (F.normalize(z, dim=1).bfloat16() @ F.normalize(codebook, dim=1).bfloat16().T).argmax(
        1
    )
    assert (lowered != expected).float().mean() > 0.01  # what the guard is for


def test_straight_through_is_exactly_q_and_hands_its_gradient_to_z():
    torch.manual_seed(0)
    z, q = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    weights = torch.randn(5, 3)
    result = straight_through(z, q)
    assert torch.equal(result, q)
    (result * weights).sum().backward()
    assert torch.equal(z.grad, weights)
    assert q.grad is None


def test_codes_start_as_unit_vectors():
    codebook = VectorQuantizer(CodebookConfig(size=100, width=8)).codebook.detach()
    torch.testing.assert_close(codebook.norm(dim=1), torch.ones(100))
    assert abs(float(codebook.mean())) < 0.05


def test_quantizer_returns_unit_vectors_and_their_rows():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(CodebookConfig(size=4, width=2))
    quantizer.codebook.data = COMPASS.clone()
    z = torch.tensor([[0.1, 0.05], [0.3, 9.0]]).T.reshape(1, 2, 1, 2)
    found = quantizer(z)
    assert found.indices.tolist() == [[[0, 1]]]
    assert found.indices.dtype == torch.int64
    torch.testing.assert_close(found.latent, F.normalize(z, dim=1))
    assert found.code_vectors.flatten(2)[0].T.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert torch.equal(found.quantized, found.code_vectors)
    assert torch.equal(quantizer.code_vectors(found.indices), found.code_vectors)


def test_gradients_of_codes_reach_used_rows_only_and_only_sideways():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(CodebookConfig(size=4, width=2))
    quantizer.codebook.data = COMPASS.clone()
    z = torch.tensor([[0.1, 0.05], [0.3, 9.0]]).T.reshape(1, 2, 1, 2).requires_grad_()
    (quantizer(z).code_vectors * torch.randn(1, 2, 1, 2)).sum().backward()
    gradient = quantizer.codebook.grad
    assert z.grad is None
    assert gradient.abs().sum(dim=1).gt(0).tolist() == [True, True, False, False]
    # Only the direction of a row is looked up, so its length gets no gradient.
    torch.testing.assert_close((gradient * COMPASS).sum(dim=1), torch.zeros(4), rtol=0, atol=1e-6)


def test_gradients_of_quantized_reach_the_encoder_only():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(CodebookConfig(size=4, width=2))
    z = torch.randn(1, 2, 2, 2, requires_grad=True)
    quantizer(z).quantized.square().mul(torch.randn(1, 2, 2, 2)).sum().backward()
    assert z.grad.abs().sum() > 0
    assert quantizer.codebook.grad is None


def test_quantizer_stays_in_full_precision_for_half_precision_input():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(CodebookConfig(size=16, width=4)).bfloat16()
    found = quantizer(torch.randn(1, 4, 2, 2, dtype=torch.bfloat16))
    assert found.latent.dtype == found.quantized.dtype == torch.float32
    torch.testing.assert_close(found.code_vectors.norm(dim=1), torch.ones(1, 2, 2))


def quantizer(lookup: str = "cosine") -> VectorQuantizer:
    found = VectorQuantizer(CodebookConfig(size=4, width=2, lookup=lookup))
    found.codebook.data = COMPASS.clone()
    return found


@pytest.mark.parametrize("lookup", ["cosine", "euclidean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_vector_that_is_not_finite_has_no_code(lookup: str, value: float):
    z = torch.tensor([[0.1, 0.05], [0.3, value], [0.2, -0.3]]).T.reshape(1, 2, 1, 3)
    plain = quantizer(lookup)
    found = plain.find(z)
    assert found[0, 0, 1] == NO_CODE
    assert torch.equal(found[..., ::2], plain(z).indices[..., ::2])
    # What argmax answers is a code like any other: the loss of a training step tells, its indices do not.
    assert int(plain(z).indices[0, 0, 1]) in range(4)
    vectors = plain.code_vectors(found)
    assert torch.isnan(vectors[0, :, 0, 1]).all()
    assert torch.equal(vectors[..., ::2], plain(z).code_vectors[..., ::2])


def test_a_codebook_that_is_not_finite_has_no_code_for_anything():
    broken = quantizer()
    broken.codebook.data[2, 0] = torch.nan
    assert (broken.find(torch.ones(1, 2, 2, 2)) == NO_CODE).all()


def test_indices_outside_of_the_codebook_become_nan_and_no_other_code():
    vectors = quantizer().code_vectors(torch.tensor([[[0, 3, 4, -1, 2**40]]]))
    assert torch.isnan(vectors[0, 0, 0]).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("lookup", ["cosine", "euclidean"])
def test_matched_codes_are_what_the_look_up_compares(lookup: str):
    found = quantizer(lookup).matched_codes()
    expected = F.normalize(COMPASS, dim=1) if lookup == "cosine" else COMPASS
    assert torch.equal(found, expected)
