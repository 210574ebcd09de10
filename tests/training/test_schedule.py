"""The learning rate's shape and the seeds of steps."""

import pytest
import torch

from glotok_ray.config import OptimizerConfig
from glotok_ray.recipes.train_generator import xar_b
from glotok_ray.training.schedule import learning_rate, seed_step, step_generator


def test_constant():
    assert {
        learning_rate(step, 100, OptimizerConfig(learning_rate=3.0)) for step in range(100)
    } == {3.0}


def test_xar_warms_up_to_100_holds_to_600_and_falls_to_1e_5_at_800():
    optimizer = xar_b().optimizer
    rate = [learning_rate(epoch, 800, optimizer) for epoch in range(801)]
    assert rate[0] == 0
    assert rate[50] == pytest.approx(2e-4)
    assert rate[100:601] == [4e-4] * 501
    assert rate[700] == pytest.approx((4e-4 + 1e-5) / 2)
    assert rate[800] == pytest.approx(1e-5)


def test_warmup_cosine_has_no_hold():
    optimizer = OptimizerConfig(learning_rate=1.0, schedule="warmup_cosine", warmup_fraction=0.2)
    assert learning_rate(10, 100, optimizer) == pytest.approx(0.5)
    assert learning_rate(60, 100, optimizer) == pytest.approx(0.5)
    assert learning_rate(100, 100, optimizer) == pytest.approx(0.0)


def test_warmup_hold_linear_falls_along_a_line():
    optimizer = OptimizerConfig(
        learning_rate=1.0,
        schedule="warmup_hold_linear",
        warmup_fraction=0.1,
        hold_fraction=0.2,
        final_learning_rate=0.1,
    )
    rates = [learning_rate(step, 100, optimizer) for step in (5, 10, 20, 60, 100)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])


def test_seeds_differ_by_step_rank_and_seed_and_repeat():
    def draw(*key):
        seed_step(*key)
        return float(torch.rand(()))

    keys = [(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)]
    assert len({draw(*key) for key in keys}) == 8
    assert draw(1, 1, 1) == draw(1, 1, 1)


def test_a_steps_generator_repeats_with_its_seed_and_draws_nothing_that_dropout_draws():
    def draw(*key):
        seed_step(*key)
        own = torch.rand(4, generator=step_generator(torch.device("cpu")))
        seed_step(*key)
        # The model's dropout may come before or after the objective's draws.
        return own.tolist(), torch.rand(64).tolist()

    own, dropouts = draw(0, 5, 1)
    assert draw(0, 5, 1) == (own, dropouts)
    assert draw(0, 6, 1)[0] != own
    assert not set(own) & set(dropouts)
