"""Codebook metrics with known answers."""

import numpy as np
import pytest
import torch

from glotok_ray.metrics.codebook import codebook_use, count_codes, duplicate_fraction, gini


def test_uniform_use() -> None:
    use = codebook_use(np.full(16, 5))
    assert use.usage == 1
    assert use.perplexity == pytest.approx(16)
    assert use.entropy_bits == pytest.approx(4)
    assert use.normalized_entropy == pytest.approx(1)
    assert use.gini == pytest.approx(0, abs=1e-12)
    assert use.dead_codes == 0


def test_one_code() -> None:
    use = codebook_use(np.array([0, 9, 0, 0]))
    assert use.usage == 0.25
    assert use.perplexity == pytest.approx(1)
    assert use.entropy_bits == 0
    assert use.gini == pytest.approx(3 / 4)
    assert use.dead_codes == 3


def test_halving_shares_give_two_bits() -> None:
    counts = 2 ** np.arange(30, -1, -1)
    assert codebook_use(counts).entropy_bits == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 2, 3, 4, 5], 4 / 15), ([1, 1, 3, 3], 0.25), ([2, 2, 2], 0.0), ([0, 0, 7], 2 / 3)],
)
def test_gini_closed_forms(values: list[int], expected: float) -> None:
    assert gini(np.array(values)) == pytest.approx(expected, abs=1e-12)
    assert gini(10 * np.array(values)) == pytest.approx(expected, abs=1e-12)


def test_weighted_gini_equals_the_expanded_vector() -> None:
    generator = np.random.default_rng(0)
    values = generator.uniform(size=20)
    values[3] = values[11]
    weights = generator.integers(1, 9, size=20)
    assert gini(values, weights) == pytest.approx(gini(np.repeat(values, weights)))


def test_counts_of_parts_add_up() -> None:
    codes = np.random.default_rng(1).integers(0, 50, size=(8, 4, 4)).astype(np.uint16)
    parts = count_codes(codes[:3], 50) + count_codes(codes[3:], 50)
    np.testing.assert_array_equal(parts, count_codes(codes, 50))
    assert parts.sum() == codes.size


def test_bad_codes_and_empty_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        count_codes(np.array([4]), 4)
    with pytest.raises(ValueError, match="at least one"):
        codebook_use(np.zeros(4))


def test_duplicates_are_rows_with_another_row_nearby() -> None:
    codes = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
    assert duplicate_fraction(torch.eye(8), 0.99, "cosine") == 0
    codes[1200] = 3 * codes[7]  # across blocks, and of another length
    codes[20] = -codes[30]
    unit = torch.nn.functional.normalize(codes, dim=1)
    assert duplicate_fraction(unit, 0.999, "cosine") == pytest.approx(2 / 1500)
    # By distance another length is another code, and the scale of all codes says nothing.
    assert duplicate_fraction(codes, 0.999, "euclidean") == 0
    codes[1200] = codes[7] * 1.001
    for scale in (1, 1e-3):
        assert duplicate_fraction(scale * codes, 0.999, "euclidean") == 2 / 1500
    for lookup in ("cosine", "euclidean"):
        assert duplicate_fraction(torch.ones(5, 3), 0.99, lookup) == 1


def test_an_offset_of_all_codes_changes_no_euclidean_duplicate() -> None:
    codes = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    # On a grid, so that sums with the offsets are exact.
    codes = (codes * 64).round() / 64
    codes[7] = codes[400]
    expected = duplicate_fraction(codes, 0.99, "euclidean")
    assert 2 / 500 <= expected < 0.5
    for offset in (3.0, -100.0, 10000.0):
        assert duplicate_fraction(codes + offset, 0.99, "euclidean") == expected


def test_euclidean_duplicates_are_near_in_proportion_to_the_spread() -> None:
    # Around a far mean, at squared distances of 1 from it; two pairs with 0.02 between their squares.
    angle = torch.tensor([0.0, np.arccos(0.99), np.pi, np.pi + np.arccos(0.99)])
    codes = torch.stack([angle.cos(), angle.sin()], dim=1) + 50
    assert duplicate_fraction(codes, 0.9899, "euclidean") == 1
    assert duplicate_fraction(codes, 0.9901, "euclidean") == 0


def test_the_bound_of_duplicates_is_the_cosine_of_unit_vectors() -> None:
    angle = np.arccos(0.9)
    pair = torch.tensor([[1.0, 0.0], [np.cos(angle), np.sin(angle)]], dtype=torch.float64)
    assert duplicate_fraction(pair, 0.899, "cosine") == 1
    assert duplicate_fraction(pair, 0.901, "cosine") == 0


def test_codes_that_are_not_finite_have_no_share_of_duplicates() -> None:
    codes = torch.eye(4)
    codes[2, 1] = torch.nan
    for lookup in ("cosine", "euclidean"):
        assert np.isnan(duplicate_fraction(codes, 0.99, lookup))


def test_numbers_that_are_not_whole_are_no_codes() -> None:
    with pytest.raises(ValueError, match="float64: must be whole numbers"):
        count_codes(np.array([1.7]), 4)
