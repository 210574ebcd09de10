"""Flow matching: path, target and its sign, draws of times and labels."""

import pytest
import torch

from glotok_ray.config import FlowConfig
from glotok_ray.losses.flow_matching import (
    best_linear_loss,
    draw_noisy_batch,
    draw_times,
    drop_labels,
    flow_matching_loss,
    flow_matching_losses,
    noisy_entities,
    order_times,
)


def test_the_path_runs_from_data_at_zero_to_noise_at_one() -> None:
    clean, noise = torch.randn(2, 2, 12, 5).unbind(0)
    assert torch.equal(noisy_entities(clean, noise, torch.zeros(2, 3), (4, 4, 4)), clean)
    assert torch.equal(noisy_entities(clean, noise, torch.ones(2, 3), (4, 4, 4)), noise)


def test_each_entity_has_its_own_time() -> None:
    clean, noise = torch.zeros(2, 7, 5), torch.ones(2, 7, 5)
    times = torch.rand(2, 3)
    noisy = noisy_entities(clean, noise, times, (1, 2, 4))
    assert torch.equal(noisy[:, 0], times[:, :1].expand(2, 5))
    assert torch.equal(noisy[:, 1:3], times[:, 1, None, None].expand(2, 2, 5))
    assert torch.equal(noisy[:, 3:], times[:, 2, None, None].expand(2, 4, 5))


def test_the_noise_of_a_context_rises_falls_or_is_left_alone() -> None:
    times = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.3, 0.4]])
    assert order_times(times, "increasing").tolist() == [
        pytest.approx([0.1, 0.5, 0.9]),
        pytest.approx([0.2, 0.3, 0.4]),
    ]
    assert order_times(times, "decreasing").tolist() == [
        pytest.approx([0.9, 0.5, 0.1]),
        pytest.approx([0.4, 0.3, 0.2]),
    ]
    assert torch.equal(order_times(times, "random"), times)
    assert torch.equal(order_times(times, "clean"), times)


def test_the_target_is_the_derivative_of_the_path() -> None:
    clean, noise = torch.randn(2, 2, 12, 5, dtype=torch.float64).unbind(0)
    later, sooner = (
        noisy_entities(clean, noise, torch.full((2, 3), time), (4, 4, 4)) for time in (0.7, 0.2)
    )
    slope = (later - sooner) / 0.5
    assert flow_matching_loss(slope, clean, noise) < 1e-12
    assert flow_matching_loss(noise - clean, clean, noise) == 0


def test_the_loss_is_the_mean_square_over_all_elements() -> None:
    clean, noise = torch.zeros(1, 4, 1), torch.ones(1, 4, 1)
    velocity = torch.tensor([1.0, 1.0, 3.0, -1.0]).reshape(1, 4, 1).requires_grad_()
    loss = flow_matching_loss(velocity, clean, noise)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 0 + 4 + 4) / 4)
    assert velocity.grad.flatten().tolist() == pytest.approx([0.0, 0.0, 1.0, -1.0])


def test_a_bf16_velocity_is_compared_in_fp32() -> None:
    clean, noise = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1.001)
    loss = flow_matching_loss(torch.ones(1, 1, 1, dtype=torch.bfloat16), clean, noise)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1e-6, rel=1e-2)


def test_logit_normal_times_have_normal_logits() -> None:
    times = draw_times((200, 100), "logit_normal", torch.Generator().manual_seed(0))
    logits = torch.logit(times.double())
    assert times.shape == (200, 100)
    assert logits.mean().abs() < 0.03
    assert (logits.std() - 1).abs() < 0.03
    assert (times < 0.1).double().mean() == pytest.approx(0.014, abs=0.004)


def test_uniform_times_fill_the_interval_evenly() -> None:
    times = draw_times((200, 100), "uniform", torch.Generator().manual_seed(0))
    counts = torch.histc(times, bins=10, min=0.0, max=1.0)
    assert (counts / times.numel() - 0.1).abs().max() < 0.01


def test_times_repeat_with_the_seed_and_differ_between_cells() -> None:
    first = draw_times((2, 4), "uniform", torch.Generator().manual_seed(3))
    again = draw_times((2, 4), "uniform", torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert first.unique().numel() == 8


def test_an_unknown_distribution_is_named() -> None:
    with pytest.raises(ValueError, match=r"distribution = 'cosine'.*logit_normal"):
        draw_times((1,), "cosine", torch.Generator())


def test_labels_are_dropped_at_the_given_rate() -> None:
    labels = torch.arange(20_000) % 7
    draw = torch.Generator().manual_seed(0)
    dropped = drop_labels(labels, 0.1, 7, draw)
    assert (dropped == 7).double().mean() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(dropped[dropped != 7], labels[dropped != 7])
    assert torch.equal(drop_labels(labels, 0.0, 7, draw), labels)
    assert (drop_labels(labels, 1.0, 7, draw) == 7).all()
    assert dropped.dtype == torch.int64


def test_losses_of_images_have_the_loss_of_the_batch_as_their_mean() -> None:
    velocity, clean, noise = torch.randn(3, 4, 6, 5).unbind(0)
    found = flow_matching_losses(velocity, clean, noise)
    assert found.shape == (4,)
    assert found[2].item() == pytest.approx(
        (velocity[2] - noise[2] + clean[2]).square().mean().item()
    )
    assert found.mean().item() == pytest.approx(flow_matching_loss(velocity, clean, noise).item())


@pytest.mark.parametrize("context", ["random", "clean", "decreasing"])
def test_a_noisy_batch_is_times_then_noise_and_the_path_between(context: str) -> None:
    clean, lengths = torch.randn(2, 6, 5), (2, 4)
    flow = FlowConfig(context=context, time_distribution="uniform")
    drawn = draw_noisy_batch(clean, lengths, flow, torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    times = order_times(draw_times((2, 2), "uniform", again), context)
    assert torch.equal(drawn.times, times)
    assert torch.equal(drawn.noise, torch.randn(clean.shape, generator=again))
    assert torch.equal(drawn.tokens, noisy_entities(clean, drawn.noise, times, lengths))
    assert [each is clean for each in drawn.context] == ([True] if context == "clean" else [])


@pytest.mark.parametrize("context", ["random", "increasing"])
@pytest.mark.parametrize("distribution", ["logit_normal", "uniform"])
@pytest.mark.parametrize("mean_square", [1.0, 0.25])
def test_the_best_linear_loss_is_that_of_least_squares_at_each_time(
    context: str, distribution: str, mean_square: float
) -> None:
    lengths, flow = (1, 3), FlowConfig(context=context, time_distribution=distribution)
    source = torch.Generator().manual_seed(5)
    clean = mean_square**0.5 * torch.randn((40_000, 4, 8), generator=source)
    drawn = draw_noisy_batch(clean, lengths, flow, source)
    times = drawn.times.repeat_interleave(torch.tensor(lengths), dim=1)
    target, bins = drawn.noise - clean, (times * 200).long()
    sums = torch.zeros(2, 201)
    for row, other in zip(sums, (target, drawn.tokens), strict=True):
        row.index_add_(0, bins.flatten(), (other * drawn.tokens).sum(dim=2).flatten())
    fitted = (sums[0] / sums[1])[bins].unsqueeze(2) * drawn.tokens
    found = best_linear_loss(mean_square, lengths, flow)
    assert found == pytest.approx(flow_matching_loss(fitted, clean, drawn.noise).item(), rel=0.005)
    assert found < 0.97 * (1 + mean_square)
