"""The average of the weights."""

import torch
from torch import nn

from glotok_ray.config import OptimizerConfig
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.snapshot import Snapshot


def averaged(module: nn.Module, decay: float) -> ExponentialMovingAverage:
    return ExponentialMovingAverage(TorchEngine(module, OptimizerConfig(), 1), decay)


def test_closed_form_after_the_ramp():
    module = nn.Linear(1, 1, bias=False)
    average = averaged(module, decay=0.5)
    start = float(module.weight)
    with torch.no_grad():
        module.weight.fill_(start + 8)
    for step in (100, 101, 102):
        average.update(step)
    assert abs(float(average.whole(keep=True)["weight"]) - (start + 7)) < 1e-5
    assert abs(float(module.weight) - (start + 8)) < 1e-6


def test_early_steps_forget_the_initial_weights_faster():
    module = nn.Linear(1, 1, bias=False)
    average = averaged(module, decay=0.9999)
    start = float(module.weight)
    with torch.no_grad():
        module.weight.fill_(start + 10)
    average.update(0)
    assert abs(float(average.whole(keep=True)["weight"]) - (start + 9)) < 1e-5


def test_buffers_are_copied_and_only_keepers_get_a_state():
    module = nn.BatchNorm1d(2)
    average = averaged(module, decay=0.9)
    module.running_mean.fill_(5)
    state = average.whole(keep=True)
    assert set(state) == set(module.state_dict())
    assert state["running_mean"].tolist() == [5, 5]
    assert average.whole(keep=False) == {}


def test_an_average_survives_its_file(tmp_path):
    module = nn.Linear(3, 2)
    average = averaged(module, decay=0.5)
    with torch.no_grad():
        module.weight.add_(1)
    average.update(7)
    copies = Snapshot()
    average.snapshot(copies, rank=0)
    copies.write(tmp_path)
    other = averaged(nn.Linear(3, 2), decay=0.5)
    other.load(tmp_path)
    for name, value in average.whole(keep=True).items():
        assert torch.equal(other.whole(keep=True)[name], value)
