"""Codes without a generator: their distributions and their independence of how they are asked
for.
"""

import numpy as np
import pytest

from glotok_ray.metrics.baselines import PositionCounts, draw_uniform


def test_marginal_follows_each_position() -> None:
    counts = PositionCounts(num_positions=2, num_codes=5)
    counts.add(np.array([[0, 4], [0, 4], [0, 4]], np.uint16))
    counts.add(np.array([[3, 4]], np.uint16))
    codes = counts.draw(0, 4000, seed=0, branch=0)
    assert codes.dtype == np.uint16
    assert set(codes[:, 0]) == {0, 3}
    assert set(codes[:, 1]) == {4}
    assert (codes[:, 0] == 3).mean() == pytest.approx(0.25, abs=0.03)


def test_marginal_positions_are_independent() -> None:
    counts = PositionCounts(num_positions=2, num_codes=2)
    counts.add(np.array([[0, 0], [1, 1]]))
    codes = counts.draw(0, 4000, seed=1, branch=0)
    assert (codes[:, 0] == codes[:, 1]).mean() == pytest.approx(0.5, abs=0.04)


def test_uniform_reaches_every_code_alike() -> None:
    codes = draw_uniform(0, 500, num_positions=16, num_codes=8, seed=0, branch=0)
    shares = np.bincount(codes.reshape(-1), minlength=8) / codes.size
    np.testing.assert_allclose(shares, 1 / 8, atol=0.015)


def test_images_do_not_depend_on_the_block_that_draws_them() -> None:
    facts = {"num_positions": 4, "num_codes": 100, "seed": 3}
    whole = draw_uniform(0, 6, branch=0, **facts)
    parts = [draw_uniform(0, 2, branch=0, **facts), draw_uniform(2, 4, branch=0, **facts)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, draw_uniform(0, 6, branch=1, **facts))
    counts = PositionCounts(4, 100)
    counts.add(whole)
    np.testing.assert_array_equal(
        counts.draw(2, 3, seed=3, branch=1), counts.draw(0, 6, seed=3, branch=1)[2:5]
    )


def test_foreign_codes_and_missing_counts_are_refused() -> None:
    counts = PositionCounts(2, 5)
    with pytest.raises(ValueError, match="codebook of 5"):
        counts.add(np.array([[0, 5]]))
    with pytest.raises(ValueError, match="need"):
        counts.add(np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="no counted code"):
        counts.draw(0, 1, seed=0, branch=0)


def test_codes_from_the_end_and_fractions_are_refused() -> None:
    counts = PositionCounts(2, 5)
    for codes in (np.array([[0, -1]]), np.array([[0.0, 1.7]])):
        with pytest.raises(ValueError, match=r"codes"):
            counts.add(codes)


def test_codes_of_large_codebooks_keep_their_numbers() -> None:
    """IBQ's and Open-MAGVIT2's largest have 262,144."""
    counts = PositionCounts(num_positions=1, num_codes=70_000)
    counts.add(np.array([[69_999]], np.uint32))
    assert counts.draw(0, 3, seed=0, branch=0).tolist() == [[69_999]] * 3
    drawn = draw_uniform(0, 200, num_positions=8, num_codes=70_000, seed=0, branch=0)
    assert 65_536 < drawn.max() < 70_000
