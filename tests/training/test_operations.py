"""Operations of a step, counted without numbers: those that torch counts in a real step, and nothing drawn or moved."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from small_tokenizer import MODEL, training_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from glotok_ray.config import (
    DiscriminatorConfig,
    FARConfig,
    FARRun,
    FlowConfig,
    OptimizerConfig,
    ScalingConfig,
    TokenizerLossConfig,
    TokenizerRun,
    VocabularyConfig,
    XARConfig,
    XARRun,
)
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.perceptual import build_perceptual
from glotok_ray.training import operations
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.example_inputs import generator_inputs
from glotok_ray.training.operations import (
    generator_operations,
    tokenizer_operations,
    utilization_of,
)
from glotok_ray.training.tokenizer_step import FrozenNetworks
from glotok_ray.training.worker import LocalWorker

ONE = ScalingConfig(num_workers=1, engine="torch", precision="fp32", use_gpu=False)
WEIGHTS = TokenizerLossConfig(
    perceptual_network="efficientnet_lite0", adversarial_start_step=1, relation_weight=0.0
)


class NoTracker:
    """In place of torch's, whose hooks do not stand `torch.autograd.grad`; modules are told apart by nobody here."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Attention as products: the fused kernel of CPUs is not counted by torch."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoTracker()
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield counter


def test_a_tokenizers_are_those_of_a_real_step() -> None:
    config = TokenizerRun(model=MODEL, loss=WEIGHTS, scaling=ONE)
    model = GloTokTokenizer(MODEL).train()
    critic = PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2))
    frozen = FrozenNetworks(build_perceptual(WEIGHTS).requires_grad_(False), None, {})
    before = torch.random.get_rng_state()
    counted = tokenizer_operations(config, model, critic, frozen)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())
    plain = OptimizerConfig()
    engines = TorchEngine(model, plain, 1), TorchEngine(critic, plain, 1)
    nothing = torch.zeros(0, 3, 32, 32, dtype=torch.uint8)
    step = training_of(config, engines, frozen, LocalWorker(), nothing).step
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    for number in (0, 1):
        with counting() as counter:
            step.learn([{"image": images}], number)
        assert counted(number) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert counted(1) > counted(0)


XAR_RUN = XARRun(
    model=XARConfig(grid_size=8, cell_size=4, width=32, depth=2, num_heads=2, num_classes=3),
    flow=FlowConfig(context="clean"),
    scaling=ONE,
)
FAR_RUN = FARRun(
    model=FARConfig(
        grid_size=8,
        codebooks=(
            VocabularyConfig(name="visual", size=48),
            VocabularyConfig(name="semantic", size=32),
        ),
        width=32,
        depth=2,
        head_depth=1,
        num_heads=2,
        mlp_multiple=1,
        num_classes=3,
    ),
    scaling=ONE,
)


@pytest.mark.parametrize(("kind", "run"), [(XAR, XAR_RUN), (FAR, FAR_RUN)])
def test_a_generators_are_those_of_a_real_pass(kind, run) -> None:
    model = kind(run.model).train()
    counted = generator_operations(run, model)(0)
    with counting() as counter:
        found = model(*generator_inputs(run, 1))
        parts = [found] if isinstance(found, torch.Tensor) else found
        sum(part.sum() for part in parts).backward()
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert counted > 0


def test_a_device_of_unknown_peak_has_no_mfu_and_nothing_is_counted(monkeypatch) -> None:
    def count():
        raise AssertionError("counted")

    assert utilization_of(None, torch.device("cpu"), count) is None
    monkeypatch.setattr(operations, "peak_rate", lambda device: 100.0)

    class Plan:
        micro_batch_size, accumulation_steps = 3, 2

    found = utilization_of(Plan, torch.device("cpu"), lambda: lambda step: 10.0)
    assert found.mfu(0, 1.0) == 0.6
