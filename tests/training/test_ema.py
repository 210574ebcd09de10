"""The average of the weights."""

import torch
from torch import nn

from glotok_ray.training.ema import ExponentialMovingAverage


def test_closed_form_after_the_ramp():
    module = nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(module, decay=0.5)
    start = float(module.weight)
    with torch.no_grad():
        module.weight.fill_(start + 8)
    for step in (100, 101, 102):
        average.update(module.named_parameters(), step)
    assert abs(float(average.parameters["weight"]) - (start + 7)) < 1e-5


def test_early_steps_forget_the_initial_weights_faster():
    module = nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(module, decay=0.9999)
    start = float(module.weight)
    with torch.no_grad():
        module.weight.fill_(start + 10)
    average.update(module.named_parameters(), 0)
    assert abs(float(average.parameters["weight"]) - (start + 9)) < 1e-5


def test_buffers_are_copied():
    module = nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(module, decay=0.9)
    module.running_mean.fill_(5)
    state = average.state_dict(module)
    assert set(state) == set(module.state_dict())
    assert state["running_mean"].tolist() == [5, 5]
