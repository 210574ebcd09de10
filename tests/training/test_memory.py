"""The memory of a run: what a worker measures, and what the dry run expects of sizes, stages and activations."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from glotok_ray.config import (
    FARConfig,
    FARRun,
    FlowConfig,
    OptimizerConfig,
    ScalingConfig,
    VocabularyConfig,
    XARConfig,
    XARRun,
    override,
)
from glotok_ray.training.activations import saved_bytes
from glotok_ray.training.describe import describe_generator
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import TorchEngine, deepspeed_config
from glotok_ray.training.memory import GIB, ExpectedMemory, expected_memory
from glotok_ray.training.snapshot import HostMemory, Snapshot

MILLION = 1_000_000
SCALING = ScalingConfig(num_workers=4, zero_stage=2, precision="fp32", bucket_elements=MILLION)
RUN = XARRun(
    model=XARConfig(grid_size=4, cell_size=2, width=64, depth=2, num_heads=2, num_classes=7),
    scaling=ScalingConfig(num_workers=1, use_gpu=False, precision="fp32"),
)
FAR_RUN = FARRun(
    model=FARConfig(
        grid_size=4,
        codebooks=(VocabularyConfig(name="a", size=50), VocabularyConfig(name="b", size=30)),
        width=64,
        depth=2,
        head_depth=1,
        num_heads=2,
        num_classes=7,
    ),
    scaling=RUN.scaling,
)


def expected(
    scaling: ScalingConfig = SCALING, *, activations: float = 0.0, accumulation_steps: int = 1
) -> ExpectedMemory:
    return expected_memory(
        [8 * MILLION],
        scaling,
        activations=activations,
        averaged=8 * MILLION,
        accumulation_steps=accumulation_steps,
    )


def parts(**changes: object) -> dict[str, float]:
    found = expected(override(SCALING, changes)).parts()
    return {name: value / (8 * MILLION) for name, value in found.items()}


def alone(code: str) -> list[float]:
    """MiB that `code` prints, from a process of its own: this one may not forget the peak of earlier tests."""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [float(word) * 1024 for word in answer.stdout.split()]


_HOLD = """
import torch
from glotok_ray.training.peak_memory import PeakMemory
first = torch.ones(100 * 2**18)
memory = PeakMemory(torch.device("cpu"))
before = memory.gib()
second = torch.ones(300 * 2**18)
del second
print(before, memory.gib())
"""


def test_the_peak_is_what_was_held_since_the_start_though_it_is_gone():
    before, after = alone(_HOLD)
    assert before == pytest.approx(0, abs=10)
    assert after == pytest.approx(300, abs=30)


_WORKER = """
import torch
from glotok_ray.training.worker import LocalWorker
worker = LocalWorker()
held = torch.ones(256 * 2**18)
print(worker.memory.gib())
"""


def test_a_worker_measures_from_its_start():
    assert alone(_WORKER) == [pytest.approx(256, abs=30)]


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer", "average"),
    [(0, 4, 4, 8, 4), (1, 4, 4, 3, 1), (2, 4, 1, 3, 1), (3, 1, 1, 3, 1)],
)
def test_each_stage_shards_one_thing_more(stage, weights, gradients, optimizer, average):
    found = parts(zero_stage=stage)
    assert found["weights"] == weights
    assert found["gradients"] == gradients
    assert found["optimizer"] == optimizer
    assert found["average"] == average


def test_bf16_halves_weights_and_gradients_and_keeps_masters():
    found = parts(precision="bf16")
    assert (found["weights"], found["gradients"], found["optimizer"]) == (2, 0.5, 3)


def test_one_process_with_a_torch_optimizer_shards_nothing():
    scaling = ScalingConfig(num_workers=1, engine="torch", precision="fp32", use_gpu=False)
    found = expected(scaling)
    per_parameter = {name: value / (8 * MILLION) for name, value in found.parts().items()}
    names = ("weights", "gradients", "optimizer", "average", "buckets", "libraries")
    assert [per_parameter[name] for name in names] == [4, 4, 8, 4, 0, 0]
    # Weights, moments and average once more, of which a checkpoint is written.
    assert found.checkpoint == 16 * 8 * MILLION
    assert found.total == 36 * 8 * MILLION


@pytest.mark.parametrize(("stage", "copied"), [(0, 4 + 8 + 4), (1, 4 + 4), (2, 4 + 4), (3, 4)])
def test_copies_for_a_checkpoint_count_where_they_lie(stage, copied):
    on_gpu = expected(override(SCALING, {"zero_stage": stage}))
    on_cpu = expected(override(SCALING, {"zero_stage": stage, "use_gpu": False}))
    assert on_gpu.checkpoint == on_cpu.checkpoint == copied * 8 * MILLION
    assert "checkpoint" not in on_gpu.parts()
    assert on_cpu.parts()["checkpoint"] == on_cpu.checkpoint
    without = dataclasses.replace(on_cpu, checkpoint=0.0)
    assert on_cpu.total - without.total == on_cpu.checkpoint
    assert on_gpu.total == dataclasses.replace(on_gpu, checkpoint=0.0).total
    # A tokenizer's checkpoint holds its weights whole as well.
    exported = expected_memory(
        [8 * MILLION],
        SCALING,
        activations=0.0,
        averaged=0,
        accumulation_steps=1,
        exported=8 * MILLION,
    )
    assert exported.checkpoint == (4 + 3 + 4) * 8 * MILLION


def test_the_copies_of_a_snapshot_are_as_large_as_expected():
    # A worker alone under the plain engine; DeepSpeed's files are compared in test_generator_zero.py.
    model = nn.Linear(1000, 1000, bias=False)
    engine = TorchEngine(model, OptimizerConfig(), 1)
    engine.backward(engine(torch.ones(1, 1000)).sum())
    engine.step()
    memory = HostMemory()
    copies = Snapshot(memory)
    engine.snapshot(copies)
    ExponentialMovingAverage(engine, 0.5).snapshot(copies, 0)
    held = sum(
        tensor.numel() * tensor.element_size()
        for tensors in memory._buffers.values()
        for tensor in tensors
    )
    one = expected_memory(
        [MILLION],
        ScalingConfig(num_workers=1, engine="torch", precision="fp32", use_gpu=False),
        activations=0.0,
        averaged=MILLION,
        accumulation_steps=1,
    )
    assert held == pytest.approx(one.checkpoint, rel=1e-4)


def test_buckets_and_what_is_updated_at_once_shrink_with_the_bucket():
    large, small = parts(zero_stage=3), parts(zero_stage=3, bucket_elements=MILLION // 10)
    assert small["buckets"] == pytest.approx(large["buckets"] / 10)
    assert small["update"] == pytest.approx(large["update"] / 10)
    whole = parts(zero_stage=3, bucket_elements=10**9)
    assert whole["update"] == parts(zero_stage=2)["update"]


def test_a_cpu_pays_for_the_optimizers_temporaries():
    on_gpu, on_cpu = parts()["update"], parts(use_gpu=False)["update"]
    assert (on_gpu, on_cpu) == (1, 4)
    # With many workers little is left to update, and gloo's copy of all weights is more.
    assert parts(use_gpu=False, num_workers=32)["update"] == 4


def test_gradients_take_the_place_of_activations_unless_they_accumulate():
    gradients = 8 * MILLION
    lone, several = (
        expected(activations=gradients, accumulation_steps=steps).total for steps in (1, 2)
    )
    assert several - lone == gradients
    # Under ZeRO 3 they are there from the start.
    third = override(SCALING, {"zero_stage": 3})
    assert expected(third, activations=10**9).total - expected(third).total > 0.9e9


def test_the_total_is_no_less_than_the_start():
    many = override(SCALING, {"num_workers": 64, "zero_stage": 3})
    found = expected(many)
    assert found.total == found.start > found.weights + found.optimizer + found.average


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_gets_the_buckets_but_never_larger_than_the_model(stage):
    scaling = override(SCALING, {"zero_stage": stage})
    optimizer = OptimizerConfig()
    large = deepspeed_config(optimizer, scaling, 1, 1, 10 * MILLION)["zero_optimization"]
    small = deepspeed_config(optimizer, scaling, 1, 1, 1001)["zero_optimization"]
    assert large["reduce_bucket_size"] == MILLION
    assert small["reduce_bucket_size"] == 1000
    for name in ("sub_group_size", "stage3_max_live_parameters", "stage3_max_reuse_distance"):
        assert large.get(name) == (MILLION if stage == 3 else None)


def test_what_autograd_keeps_is_counted_in_the_networks_own_width():
    # Of x, tanh(Wx) and its square: the input of the product, and the output of tanh, once though it is used twice.
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(10, 20, bias=False)

        def forward(self, x):
            return self.linear(x).tanh().square()

    with torch.device("meta"):
        single, half = Net(), Net().bfloat16()
        x = torch.empty(3, 10)
    assert saved_bytes(single, x) == 4 * (3 * 10 + 3 * 20)
    assert saved_bytes(half, x.bfloat16()) == 2 * (3 * 10 + 3 * 20)


def test_a_description_adds_up_and_follows_the_batch():
    run = override(RUN, {"data.num_train_images": 100, "schedule.global_batch_size": 4})
    one = override(run, {"schedule.micro_batch_size": 1})
    four = override(run, {"schedule.micro_batch_size": 4})
    found = [describe_generator(each) for each in (one, four)]
    sizes = [answer["memory_parts_gib"]["activations"] for answer in found]
    assert sizes[1] == pytest.approx(4 * sizes[0], abs=0.002)
    assert found[0]["parameters"] == sum(found[0]["modules"].values())
    assert "average" in found[0]["memory_parts_gib"]
    no_average = describe_generator(override(one, {"ema_decay": 0.0}))
    assert no_average["memory_parts_gib"]["average"] == 0
    assert no_average["export_gib"] == pytest.approx(4 * found[0]["parameters"] / GIB, abs=0.001)
    json.dumps(found)


def test_an_elastic_run_states_the_memory_at_both_ends():
    fixed = {
        "data.num_train_images": 100,
        "schedule.global_batch_size": 8,
        "schedule.micro_batch_size": 2,
        # Large enough that parts of it show in the third decimal.
        "model.width": 512,
        "model.depth": 6,
        "scaling.zero_stage": 2,
        "scaling.num_workers": 4,
    }
    run = override(RUN, fixed)
    assert "memory_by_workers" not in describe_generator(run)
    found = describe_generator(override(run, {"scaling.min_workers": 2, "scaling.max_workers": 8}))
    ends = found["memory_by_workers"]
    assert list(ends) == ["2", "8"]
    for workers, end in ends.items():
        alone = describe_generator(override(run, {"scaling.num_workers": int(workers)}))
        assert end == {name: alone[name] for name in end}
    assert [end["accumulation_steps"] for end in ends.values()] == [2, 1]
    optimizer = [end["memory_parts_gib"]["optimizer"] for end in ends.values()]
    # ZeRO divides it among them.
    assert optimizer[0] == pytest.approx(4 * optimizer[1], abs=0.003)
    assert ends["2"]["memory_per_worker_gib"] > 1.1 * found["memory_per_worker_gib"]


def activations(run: XARRun | FARRun) -> float:
    """GiB of a batch large enough that rounding does not matter."""
    schedule = {
        "data.num_train_images": 10**6,
        "schedule.global_batch_size": 4096,
        "schedule.micro_batch_size": 4096,
    }
    return describe_generator(override(run, schedule))["memory_parts_gib"]["activations"]


def test_clean_context_doubles_the_tokens_and_recomputing_drops_most():
    plain = activations(RUN)
    clean = activations(override(RUN, {"flow": FlowConfig(context="clean")}))
    assert 1.8 < clean / plain < 2.5
    saving = activations(override(RUN, {"scaling.activation_checkpointing": True}))
    assert saving < 0.4 * plain
    assert activations(override(RUN, {"scaling.precision": "bf16"})) < 0.8 * plain


def test_far_pays_for_its_vocabulary():
    small = activations(FAR_RUN)
    large = activations(override(FAR_RUN, {"model.codebooks.0.size": 1050}))
    # Of a thousand more codes at each of 16 positions: the logarithms of probabilities and their gradient, in fp32.
    assert large - small == pytest.approx(2 * 4 * 1000 * 16 * 4096 / GIB, abs=0.002)
