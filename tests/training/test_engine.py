"""The plain engine against torch by hand; DeepSpeed is compared with it in tests/training/test_zero.py."""

import sys
import types

import pytest
import torch
from torch import nn

from glotok_ray.config import OptimizerConfig, ScalingConfig
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training import engine
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
