"""The plain engine against torch by hand; DeepSpeed is compared with it in tests/training/test_zero.py."""

import math
import sys
import types

import pytest
import torch
from torch import nn

from glotok_ray.config import OptimizerConfig, ScalingConfig
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training import engine
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import TorchEngine, deepspeed_config, parameter_groups


def test_accumulation_equals_one_large_batch():
    torch.manual_seed(0)
    images = torch.randn(8, 3)
    modules = [nn.Linear(3, 2), nn.Linear(3, 2)]
    modules[1].load_state_dict(modules[0].state_dict())
    optimizer = OptimizerConfig(learning_rate=0.1, gradient_clip=0.05)
    whole, parts = TorchEngine(modules[0], optimizer, 1), TorchEngine(modules[1], optimizer, 2)
    for _ in range(3):
        whole.backward(whole(images).square().mean())
        whole.step()
        for half in images.split(4):
            parts.backward(parts(half).square().mean())
            parts.step()
    torch.testing.assert_close(modules[0].weight, modules[1].weight)


def test_weight_decay_spares_vectors():
    groups = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), 0.02)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [
        (0.02, 1),
        (0.0, 3),
    ]


def test_loading_what_is_not_there_is_an_error(tmp_path):
    engine = TorchEngine(nn.Linear(1, 1), OptimizerConfig(), 1)
    with pytest.raises(ArtefactError, match=r"engine\.pt: no such file"):
        engine.load(tmp_path)


def test_deepspeed_config_follows_the_run():
    scaling = ScalingConfig(num_workers=4, zero_stage=2, precision="bf16", use_gpu=True)
    optimizer = OptimizerConfig(
        name="adamw", learning_rate=4e-4, betas=(0.9, 0.96), weight_decay=0.02, gradient_clip=1.0
    )
    found = deepspeed_config(
        optimizer, scaling, micro_batch_size=64, accumulation_steps=2, num_parameters=10**8
    )
    assert found["train_micro_batch_size_per_gpu"] == 64
    assert found["gradient_accumulation_steps"] == 2
    assert found["gradient_clipping"] == 1.0
    assert found["zero_optimization"]["stage"] == 2
    assert found["bf16"]["enabled"]
    assert found["optimizer"] == {
        "type": "AdamW",
        "params": {
            "lr": 4e-4,
            "betas": [0.9, 0.96],
            "weight_decay": 0.02,
            "torch_adam": True,
            "adam_w_mode": True,
            "fused": True,
        },
    }


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e3])
def test_the_gradients_norm_is_that_before_clipping(clip):
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    engine = TorchEngine(module, OptimizerConfig(gradient_clip=clip), 2)
    for part in torch.randn(4, 3).split(2):
        engine.backward(engine(part).square().mean())
        gradients = [parameter.grad.flatten() for parameter in module.parameters()]
        expected = torch.cat(gradients).norm()
        engine.step()
    torch.testing.assert_close(engine.gradient_norm, expected)
    assert expected > 1e-3


def everything_of(engine):
    """Copies of weights and moments, flat."""
    state = engine._optimizer.state_dict()["state"].values()
    moments = [value.clone() for each in state for value in each.values()]
    return [*(shard.clone() for shard in engine.shards()), *moments]


def all_equal(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(factor, clip, name):
    torch.manual_seed(0)
    optimizer = OptimizerConfig(
        name=name, learning_rate=0.1, weight_decay=0.1 * (name == "adamw"), gradient_clip=clip
    )
    engine = TorchEngine(nn.Linear(3, 2), optimizer, 2)
    average = ExponentialMovingAverage(engine, 0.5)

    def learn(step, of):
        for part in torch.randn(4, 3).split(2):
            loss = of(engine(part))
            engine.backward(loss)
            engine.step()
        average.update(step)
        return bool(loss.isfinite())

    def broken(found):
        away = found - found.detach()
        return away.square().sqrt().mean() if math.isnan(factor) else (away * 3e38 * 10).sum()

    # Moments from here on, by which a gradient of zeros would move weights too.
    assert learn(0, lambda found: found.square().mean())
    before = everything_of(engine)
    assert learn(1, broken)
    assert all_equal(before, everything_of(engine))
    assert engine.gradient_norm == math.inf
    assert all(shard.isfinite().all() for shard in average._shards)
    assert learn(2, lambda found: found.square().mean())
    assert not all_equal(before, everything_of(engine))
    assert engine.gradient_norm.isfinite()


def test_mlflow_is_as_if_it_were_not_there_while_deepspeed_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(ModuleNotFoundError), engine._import_of_mlflow_refused():
        import mlflow  # noqa: F401
    assert "mlflow" not in sys.modules
    # One that is there already is left alone.
    here = types.ModuleType("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", here)
    with engine._import_of_mlflow_refused():
        assert sys.modules["mlflow"] is here


def test_at_stage_0_the_engine_clips_and_deepspeed_does_not():
    optimizer = OptimizerConfig(gradient_clip=0.5)
    for stage, clip in ((0, 0.0), (1, 0.5)):
        scaling = ScalingConfig(num_workers=1, zero_stage=stage, precision="fp32")
        found = deepspeed_config(
            optimizer, scaling, micro_batch_size=4, accumulation_steps=1, num_parameters=100
        )
        assert found["gradient_clipping"] == clip
