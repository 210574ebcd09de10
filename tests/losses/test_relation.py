"""Eqs. 4-7: the fast path equals the paper's sum in value and gradient, and Algorithm 1 is
reproduced literally.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from glotok_ray.config import RelationConfig
from glotok_ray.losses.pairs.passes import pair_histogram
from glotok_ray.losses.pairs.tables import Share
from glotok_ray.losses.relation import (
    codebook_histogram,
    fine_histogram,
    histogram_bins,
    normalize_histogram,
    pairwise_cosine,
    rebin,
    relation_loss,
    smallest_reachable_std,
    soft_histogram,
    unit_rows,
)

DENSE = RelationConfig(literal=True)


def codes(n: int, d: int = 8, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator).to(dtype)


def teacher() -> torch.Tensor:
    return codebook_histogram(codes(200, 8, dtype=torch.float64, seed=9) + 0.3, DENSE)


def loss_and_gradient(
    codebook: torch.Tensor, relation: RelationConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = codebook.clone().requires_grad_()
    loss = relation_loss(
        codebook_histogram(leaf, relation), teacher(), reduction=relation.reduction
    )
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def test_pairs_of_eq_4():
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert pairwise_cosine(vectors, include_diagonal=False).tolist() == [0.0, -1.0, 0.0]
    assert pairwise_cosine(vectors, include_diagonal=True).tolist() == [
        1.0,
        0.0,
        -1.0,
        1.0,
        0.0,
        1.0,
    ]
    assert len(pairwise_cosine(codes(7), include_diagonal=True)) == 7 * 8 // 2


def test_bins_of_eq_5():
    bins = histogram_bins(40)
    assert len(bins) == 40
    assert (float(bins[0]), float(bins[-1])) == (-1.0, 1.0)
    torch.testing.assert_close(bins.diff(), torch.full((39,), 2 / 39, dtype=torch.float64))


def test_sum_of_eq_6():
    histogram = soft_histogram(
        torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 1.0]), alpha=2.0
    )
    e1, e4 = torch.exp(torch.tensor(-2.0)), torch.exp(torch.tensor(-8.0))
    torch.testing.assert_close(histogram, torch.stack([1 + 2 * e1, e1 + 2, e4 + 2 * e1]))


def test_gradcheck_of_the_paper_s_sum():
    codebook = codes(6, 3, dtype=torch.float64).requires_grad_()
    relation = RelationConfig(num_bins=5, literal=True)
    assert torch.autograd.gradcheck(lambda c: codebook_histogram(c, relation), codebook)


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float64, 2e-5), (torch.float32, 5e-5)])
@pytest.mark.parametrize("include_diagonal", [False, True])
@pytest.mark.parametrize("normalization", ["sum", "l2"])
def test_fast_path_equals_the_paper_s_sum(dtype, precision, include_diagonal, normalization):
    codebook = codes(520, dtype=dtype)  # three tiles a side
    options = {"include_diagonal": include_diagonal, "normalization": normalization}
    fast = codebook_histogram(codebook, RelationConfig(**options))
    dense = codebook_histogram(codebook, RelationConfig(literal=True, **options))
    assert fast.dtype == dense.dtype == dtype
    torch.testing.assert_close(fast, dense, rtol=1e-5, atol=1e-6)
    loss, gradient = loss_and_gradient(codebook, RelationConfig(**options))
    dense_loss, dense_gradient = loss_and_gradient(
        codebook, RelationConfig(literal=True, **options)
    )
    torch.testing.assert_close(loss, dense_loss, rtol=1e-5, atol=1e-6)
    assert (gradient - dense_gradient).norm() < precision * dense_gradient.norm()


@pytest.mark.parametrize("alpha", [50.0, 800.0])
def test_fast_path_at_other_sharpness_and_bins(alpha):
    relation = RelationConfig(num_bins=20, alpha=alpha)
    loss, gradient = loss_by_hand(codes(80, dtype=torch.float64), relation)
    dense_loss, dense_gradient = loss_by_hand(
        codes(80, dtype=torch.float64), RelationConfig(num_bins=20, alpha=alpha, literal=True)
    )
    torch.testing.assert_close(loss, dense_loss, rtol=1e-4, atol=1e-6)
    assert (gradient - dense_gradient).norm() < 1e-4 * dense_gradient.norm()


def loss_by_hand(
    codebook: torch.Tensor, relation: RelationConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss that is not the KL, so that each bin gets another gradient."""
    leaf = codebook.clone().requires_grad_()
    weights = torch.linspace(-1, 2, relation.num_bins, dtype=codebook.dtype)
    loss = (codebook_histogram(leaf, relation) * weights).sum()
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def test_fine_histogram_splits_linearly_and_holds_the_ends():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.25, (1 - 0.0625) ** 0.5]])
    counts = fine_histogram(vectors, num_nodes=4)
    # Cosines: 1 once, -1 twice, 0.25 twice (half way from node 0 to 0.5), -0.25 once.
    expected = torch.tensor([2, 0.5, 0.5 + 2 * 0.5, 2 * 0.5, 1], dtype=torch.float64)
    torch.testing.assert_close(counts, expected, rtol=0, atol=1e-6)


def test_rebin_of_a_single_cosine_is_the_kernel():
    fine = torch.zeros(8193)
    fine[4096] = 3.0  # three pairs with cosine 0
    relation = RelationConfig()
    expected = 3 * torch.exp(-relation.sharpness * histogram_bins(40).square())
    torch.testing.assert_close(rebin(fine, relation), expected)


def test_order_and_length_of_the_codes_do_not_matter():
    codebook = codes(300, dtype=torch.float64)
    shuffled = codebook[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    lengths = 0.1 + torch.rand(300, 1, generator=torch.Generator().manual_seed(2))
    expected = codebook_histogram(codebook, RelationConfig())
    torch.testing.assert_close(codebook_histogram(shuffled * lengths, RelationConfig()), expected)


def test_gradient_is_orthogonal_to_every_code():
    codebook = codes(300, dtype=torch.float64)
    gradient = loss_and_gradient(codebook, RelationConfig())[1]
    radial = (gradient * codebook).sum(dim=1).abs()
    assert radial.max() < 1e-12 * gradient.abs().max() * 300


def test_zero_if_and_only_if_equal():
    same = teacher()
    assert float(relation_loss(same, same.clone(), reduction="sum")) == 0
    other = codebook_histogram(codes(100, dtype=torch.float64), DENSE)
    assert float(relation_loss(other, same, reduction="sum")) > 1e-3


def test_value_direction_and_reductions():
    student = torch.tensor([0.5, 0.25, 0.25])
    target = torch.tensor([0.25, 0.25, 0.5])
    expected = 0.25 * torch.log(torch.tensor(2.0))  # sum p_t ln(p_t / p_s)
    torch.testing.assert_close(relation_loss(student, target, reduction="sum"), expected)
    torch.testing.assert_close(relation_loss(student, target, reduction="mean"), expected / 3)
    skewed = torch.tensor([0.7, 0.2, 0.1])
    forward = relation_loss(student, skewed, reduction="sum")
    torch.testing.assert_close(forward, (skewed * (skewed / student).log()).sum())


def test_no_gradient_into_the_teacher():
    student, target = teacher().requires_grad_(), teacher().requires_grad_()
    relation_loss(student, target, reduction="sum").backward()
    assert target.grad is None
    assert student.grad is not None


def test_at_the_teacher_the_sum_norm_is_stationary_and_the_l2_norm_is_not():
    codebook = codes(60, dtype=torch.float64)

    def gradient_norm(normalization: str) -> float:
        log_counts = rebin(
            fine_histogram(codebook, num_nodes=8192),
            DENSE,
        ).log()
        leaf = log_counts.clone().requires_grad_()
        target = normalize_histogram(log_counts.exp(), normalization)
        relation_loss(
            normalize_histogram(leaf.exp(), normalization), target, reduction="sum"
        ).backward()
        return float(leaf.grad.norm())

    assert gradient_norm("sum") < 1e-10
    assert gradient_norm("l2") > 1e-2


@pytest.mark.parametrize("student_empty", [False, True])
def test_empty_bins_stay_finite(student_empty):
    narrow = F.normalize(torch.ones(50, 8) + 0.01 * codes(50), dim=1)  # all cosines near 1
    wide = torch.cat([narrow, -narrow])
    student_codes, teacher_codes = (narrow, wide) if student_empty else (wide, narrow)
    leaf = student_codes.clone().requires_grad_()
    relation = RelationConfig(alpha=2000.0)
    student, target = (
        codebook_histogram(leaf, relation),
        codebook_histogram(teacher_codes, relation),
    )
    assert (student if student_empty else target).min().item() == 0
    loss = relation_loss(student, target, reduction="sum")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(leaf.grad).all()


def test_algorithm_1_literally():
    """A transcription of Algorithm 1 and Eqs. 4-5 that shares no code with the package."""
    student_codes, teacher_codes = codes(30), codes(45, seed=3) + 0.5

    def distribution(rows: torch.Tensor) -> torch.Tensor:
        unit = rows / torch.norm(rows, dim=1, keepdim=True)
        i, j = torch.triu_indices(len(rows), len(rows))
        d = (unit @ unit.T)[i, j][:, None]
        b = torch.tensor([[-1 + 2 * k / 39 for k in range(40)]])
        sim = (torch.mm(d, torch.ones(1, 40)) - torch.mm(torch.ones(len(d), 1), b)) ** 2
        p = torch.sum(torch.exp(-190 * sim), dim=0, keepdim=True)
        return p / torch.norm(p, dim=1)

    expected = F.kl_div(
        distribution(student_codes).log(), distribution(teacher_codes), reduction="none"
    ).mean()
    for literal in (False, True):
        relation = RelationConfig(
            alpha=190.0,
            include_diagonal=True,
            normalization="l2",
            reduction="mean",
            literal=literal,
        )
        student, target = (codebook_histogram(c, relation) for c in (student_codes, teacher_codes))
        loss = relation_loss(student, target, reduction="mean")
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_descending_the_loss_moves_the_codebook_towards_the_teacher():
    codebook = codes(64).requires_grad_()
    target = teacher().float()
    optimizer = torch.optim.Adam([codebook], lr=0.02)
    losses = []
    for _ in range(60):
        loss = relation_loss(
            codebook_histogram(codebook, RelationConfig()), target, reduction="sum"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_autocast_changes_nothing():
    expected = codebook_histogram(codes(100), RelationConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codebook_histogram(codes(100), RelationConfig()), expected)


@pytest.mark.parametrize(
    ("mean", "width", "expected"),
    [(0.0, 8, 0.354), (0.1, 8, 0.339), (0.3, 8, 0.265), (0.5, 8, 0.189)],
)
def test_reachable_spread(mean, width, expected):
    assert smallest_reachable_std(mean, width) == pytest.approx(expected, abs=5e-4)


def test_reachable_spread_is_met_by_uniform_codes_and_by_a_shifted_simplex():
    spread = pairwise_cosine(codes(1500, dtype=torch.float64), include_diagonal=False)
    assert float(spread.std()) == pytest.approx(smallest_reachable_std(0.0, 8), rel=0.01)
    # Codes on a cone: one shared axis, isotropic across it.
    across = F.normalize(codes(1500, 7, dtype=torch.float64), dim=1)
    cone = torch.cat(
        [torch.full((1500, 1), 0.6**0.5, dtype=torch.float64), 0.4**0.5 * across], dim=1
    )
    spread = pairwise_cosine(cone, include_diagonal=False)
    assert float(spread.std()) == pytest.approx(
        smallest_reachable_std(float(spread.mean()), 8), rel=0.01
    )


def test_reachable_spread_refuses_impossible_input():
    with pytest.raises(ValueError, match="mean cosine"):
        smallest_reachable_std(1.5, 8)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 120),
    d=st.integers(2, 16),
    num_bins=st.integers(8, 256),
    alpha=st.floats(20, 2000),
    mean=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    include_diagonal=st.booleans(),
)
def test_gradient_equals_the_literal_one_in_double_precision(
    n, d, num_bins, alpha, mean, seed, include_diagonal
):
    codebook = with_duplicates_and_opposites(n, d, mean, seed)
    options = {"num_bins": num_bins, "alpha": alpha, "include_diagonal": include_diagonal}
    weights = torch.randn(
        num_bins, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )

    def value_and_gradient(codes, relation):
        leaf = codes.clone().requires_grad_()
        # Unnormalised bins under random weights: no bin's error hides behind another's.
        histogram = codebook_histogram(leaf, relation)
        value = (histogram.double() * weights).sum()
        return histogram.detach().double(), torch.autograd.grad(value, leaf)[0].double()

    expected, reference = value_and_gradient(
        codebook.double(), RelationConfig(literal=True, **options)
    )
    histogram, gradient = value_and_gradient(codebook.float(), RelationConfig(**options))
    assert (histogram - expected).norm() <= 1e-5 * expected.norm()
    # Two opposite codes alone have no gradient but rounding, so the slope's own size is the measure.
    size = alpha**0.5 * weights.abs().max() / codebook.double().norm(dim=1).min() / len(codebook)
    assert (gradient - reference).norm() <= 1e-4 * reference.norm() + 1e-6 * size


def with_duplicates_and_opposites(n: int, d: int, mean: float, seed: int) -> torch.Tensor:
    """Random codes around a shared direction, of lengths from 0.5 to 2; a quarter are copies, a
    quarter opposites of others. fp32 numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(n, d, generator=generator) + mean * torch.ones(d)
    quarter = n // 4
    codes[:quarter] = codes[quarter : 2 * quarter]
    codes[2 * quarter : 3 * quarter] = -codes[quarter : 2 * quarter]
    return F.normalize(codes, dim=1) * (0.5 + 1.5 * torch.rand(n, 1, generator=generator))


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("broken", [0.0, float("inf"), -float("inf"), 1e38, 1e-40, 1e-44])
def test_no_input_but_nan_gives_nan(broken, literal):
    codebook = codes(40)
    codebook[3] = broken
    codebook[5, 2] = broken
    loss, gradient = loss_and_gradient(codebook, RelationConfig(literal=literal))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize(("normalization", "share"), [("sum", 0.5), ("l2", 0.5**0.5)])
@pytest.mark.parametrize("num_bins", [2, 40])
def test_the_sharpest_kernel_still_counts_a_cosine_half_way_between_bins(
    num_bins, normalization, share, literal
):
    """Each of the two bins beside cosine 0 gets exp(-alpha / (N - 1)^2) = exp(-45), which normalisation makes equal."""
    options = {"num_bins": num_bins, "normalization": normalization, "literal": literal}
    sharpest = RelationConfig(alpha=45.0 * (num_bins - 1) ** 2, **options)
    leaf = torch.eye(2, requires_grad=True)
    histogram = codebook_histogram(leaf, sharpest)
    expected = torch.zeros(num_bins)
    expected[num_bins // 2 - 1 : num_bins // 2 + 1] = share
    torch.testing.assert_close(histogram.detach(), expected, rtol=1e-3, atol=1e-6)
    assert torch.autograd.grad(histogram[0], leaf)[0].isfinite().all()
    with pytest.raises(ValueError, match=rf"alpha = .* at {num_bins} bins: so sharp a kernel"):
        RelationConfig(alpha=45.1 * (num_bins - 1) ** 2, **options)


def test_nan_shows_in_the_loss():
    codebook = codes(40)
    codebook[3, 1] = float("nan")
    assert loss_and_gradient(codebook, RelationConfig())[0].isnan()


def test_second_derivatives_are_refused_with_the_remedy():
    leaf = codes(20, dtype=torch.float64).requires_grad_()
    loss = relation_loss(codebook_histogram(leaf, RelationConfig()), teacher(), reduction="sum")
    with pytest.raises(NotImplementedError, match=r"relation\.literal = True"):
        torch.autograd.grad(loss, leaf, create_graph=True)


@pytest.mark.parametrize(("alpha", "nodes"), [(20.0, 4096), ("bin_width", 8192), (2000.0, 32768)])
def test_nodes_follow_the_error_bound(alpha, nodes):
    relation = RelationConfig(alpha=alpha)
    assert relation.num_nodes == nodes
    # A cosine half way between two nodes, at the middle of a bin's kernel: the worst case.
    between = torch.zeros(nodes + 1, dtype=torch.float64)
    between[nodes // 2 : nodes // 2 + 2] = 0.5
    middle = RelationConfig(alpha=relation.sharpness, num_bins=9)  # its middle bin is cosine 0
    exact = math.exp(-relation.sharpness / nodes**2)
    # The bin at 0 lies on a node; the kernel there is 1, one node on exp(-alpha (2 / M)^2).
    found = float(rebin(between, middle)[4])
    assert abs(found - exact) <= relation.sharpness / nodes**2 <= relation.tolerance


class Team:
    """Workers in one process: `all_sum` adds what each of them counted beforehand."""

    def __init__(self, rank: int, world_size: int, parts: list[torch.Tensor]) -> None:
        self.rank, self.world_size, self._parts = rank, world_size, parts

    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(tensor, self._parts[self.rank])
        return torch.stack(self._parts).sum(0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shared_out_over_workers_the_mean_gradient_is_that_of_one(workers):
    codebook, relation = codes(700), RelationConfig(include_diagonal=True)
    parts = [
        pair_histogram(unit_rows(codebook), relation.num_nodes, Share(rank, workers))
        for rank in range(workers)
    ]
    whole_loss, whole_gradient = loss_and_gradient(codebook, relation)
    gradients = []
    for rank in range(workers):
        leaf = codebook.clone().requires_grad_()
        student = codebook_histogram(leaf, relation, Team(rank, workers, parts))
        loss = relation_loss(student, teacher(), reduction="sum")
        assert torch.equal(loss.detach(), whole_loss)  # bit for bit: counts are exact sums
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    mean = torch.stack(gradients).mean(0)
    assert (mean - whole_gradient).norm() <= 1e-6 * whole_gradient.norm()
    if workers > 1:
        assert not torch.equal(gradients[0], gradients[1])


def test_histograms_of_other_bins_and_codebooks_of_other_kinds_are_refused():
    for student, target in ((torch.ones(40), torch.ones(1)), (torch.ones(2, 4), torch.ones(2, 4))):
        with pytest.raises(ValueError, match="histograms over the same bins"):
            relation_loss(student, target, reduction="sum")
    for codebook in (torch.ones(5, 2).long(), torch.ones(1, 3), torch.ones(4)):
        with pytest.raises(ValueError, match=r"two or more rows \(n, d\) of floating"):
            codebook_histogram(codebook, RelationConfig())
