"""The bin-free distance of cosines, against scipy's on all pairs."""

import pytest
import torch
from scipy.stats import wasserstein_distance

from glotok_ray.losses.relation import pairwise_cosine
from glotok_ray.teacher.cosine_distance import cosine_distance, wasserstein
from glotok_ray.teacher.histogram import build_histogram


def vectors(count, width, seed, shift=0.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def test_it_is_the_distance_of_the_pairs_themselves() -> None:
    centroids, codes = vectors(60, 16, 0, shift=0.5), vectors(90, 8, 1)
    teacher = build_histogram(centroids, fine_bins=4096, provenance={})
    pairs = [
        pairwise_cosine(x.double(), include_diagonal=False).numpy() for x in (codes, centroids)
    ]
    assert cosine_distance(teacher, codes) == pytest.approx(wasserstein_distance(*pairs), abs=1e-3)
    assert cosine_distance(teacher, 7 * codes) == pytest.approx(cosine_distance(teacher, codes))
    assert cosine_distance(teacher, centroids) == pytest.approx(0, abs=1e-6)


def test_two_points_are_as_far_as_they_lie_apart() -> None:
    first, second = torch.zeros(9), torch.zeros(9)
    first[0], second[8] = 5.0, 1.0
    assert wasserstein(first, second) == pytest.approx(2.0)
    second = torch.zeros(9)
    second[1] = 3.0
    assert wasserstein(first, second) == pytest.approx(0.25)


def test_codes_that_are_broken_have_no_distance() -> None:
    teacher = build_histogram(vectors(5, 4, 0), fine_bins=2048, provenance={})
    broken = vectors(5, 4, 1)
    broken[2, 1] = float("nan")
    with pytest.raises(ValueError, match="finite vectors; look for a diverged model"):
        cosine_distance(teacher, broken)
    with pytest.raises(ValueError, match="the same two or more nodes"):
        wasserstein(torch.ones(3), torch.ones(4))
