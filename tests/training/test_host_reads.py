"""How often the host waits for the device in an optimizer step: once, for its flags, whatever the micro batches.

On the CPU nothing waits, so what would wait on a GPU is counted: reads of values, results whose size depends on
values, and tensors made of lists. The optimizer's own part is the engine's and stays out. `benchmarks.gpu_check` asks
CUDA itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tokenizer import MODEL, training_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glotok_ray.config import (
    DiscriminatorConfig,
    FARConfig,
    FlowConfig,
    OptimizerConfig,
    RelationConfig,
    ScalingConfig,
    ScheduleConfig,
    TokenizerLossConfig,
    TokenizerRun,
    TokenSamplerConfig,
    VocabularyConfig,
    XARConfig,
)
from glotok_ray.data.records import DatasetInfo
from glotok_ray.losses.pairs import passes
from glotok_ray.losses.pairs.tables import Share
from glotok_ray.losses.relation import codebook_histogram
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.perceptual import build_perceptual
from glotok_ray.sampling.tokens import sample_codes
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.generator_state import GeneratorState
from glotok_ray.training.generator_step import (
    FlowObjective,
    GeneratorStep,
    Objective,
    TokenObjective,
)
from glotok_ray.training.metrics_log import MetricsLog
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.rows_seen import RowsSeen
from glotok_ray.training.schedule import seed_step
from glotok_ray.training.tokenizer_step import FrozenNetworks, TokenizerStep
from glotok_ray.training.trainer import TrainingStep
from glotok_ray.training.worker import LocalWorker

PLAIN = OptimizerConfig(learning_rate=1e-3, gradient_clip=0.0)
CLIPPED = OptimizerConfig(learning_rate=1e-3, gradient_clip=1.0)
_ATEN = torch.ops.aten
# All that a GPU answers with a wait, beside indexing by a mask.
_WAITS = {
    _ATEN._local_scalar_dense.default,
    _ATEN.nonzero.default,
    _ATEN.masked_select.default,
    _ATEN.bincount.default,
    _ATEN._unique2.default,
    _ATEN.unique_consecutive.default,
    _ATEN.equal.default,
    _ATEN.repeat_interleave.Tensor,
}


class _Watch(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        masks = func in (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default)
        by_mask = masks and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        if func in _WAITS or by_mask:
            self._found[str(func)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts, by name, what would let the host wait for a GPU."""
    found: Counter[str] = Counter()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        # These go past the dispatcher, or do nothing on the CPU.
        for name in ("tolist", "numpy", "cpu"):
            patch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, counted(name, getattr(torch, name)))
        with _Watch(found):
            yield found


class EngineWithoutOptimizer(TorchEngine):
    """Gradients and their norm alone."""

    def step(self) -> None:
        """What reads beyond is the optimizer's, which on a GPU is another."""
        self._clip_gradients()


@pytest.fixture(autouse=True)
def _pairs_as_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    # The CPU's own kernels read numbers; Triton's cannot run here, and plain torch is what stands in for them.
    monkeypatch.setattr(passes, "_backend", lambda unit: passes.BY_ROWS)


def test_a_share_of_the_pairs_lets_the_host_wait_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit, slope, share = torch.randn(700, 8), torch.randn(513), Share(1, 3)
    with host_reads(monkeypatch) as found:
        passes.pair_histogram(unit, 512, share)
        passes.accumulate_gradient(unit, slope, share)
    assert not found, found


def tokenizer_step() -> TokenizerStep:
    weights = TokenizerLossConfig(
        perceptual_network="efficientnet_lite0",
        adversarial_start_step=0,
        adaptive_adversarial_weight=True,
        lecam_weight=0.1,
        entropy_weight=0.03,
        disentanglement_weight=0.1,
        relation=RelationConfig(num_bins=20),
    )
    torch.manual_seed(0)
    teacher = codebook_histogram(torch.randn(40, 8), weights.relation)
    critic = PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2))
    return training_of(
        TokenizerRun(model=MODEL, loss=weights, ema_decay=0.5),
        (
            EngineWithoutOptimizer(GloTokTokenizer(MODEL), CLIPPED, 1),
            EngineWithoutOptimizer(critic, PLAIN, 1),
        ),
        FrozenNetworks(build_perceptual(weights), teacher, {}),
        LocalWorker(),
        torch.zeros(0, 3, 32, 32, dtype=torch.uint8),
    ).step


def generator_step(engine: TorchEngine, objective: Objective) -> GeneratorStep:
    worker = LocalWorker()
    state = GeneratorState(engine, ExponentialMovingAverage(engine, 0.9), worker)
    return GeneratorStep(state, objective, worker)


def xar_step(**changes: Any) -> GeneratorStep:
    size = XARConfig(
        grid_size=8, cell_size=4, width=32, depth=2, num_heads=2, num_classes=3, **changes
    )
    tokenizer = GloTokTokenizer(MODEL).requires_grad_(False).eval()
    objective = FlowObjective(tokenizer, torch.full((16,), 2.0), size, FlowConfig())
    engine = EngineWithoutOptimizer(XAR(size), PLAIN, 1)
    return generator_step(engine, objective)


def far_step() -> GeneratorStep:
    books = (
        VocabularyConfig(name="visual", size=48),
        VocabularyConfig(name="semantic", size=32),
    )
    size = FARConfig(
        grid_size=8,
        codebooks=books,
        width=32,
        depth=2,
        head_depth=1,
        num_heads=2,
        mlp_multiple=1,
        num_classes=3,
    )
    engine = EngineWithoutOptimizer(FAR(size), PLAIN, 1)
    objective = TokenObjective(size, label_dropout=0.1)
    return generator_step(engine, objective)


STEPS: dict[str, Callable[[], TrainingStep]] = {
    "tokenizer": tokenizer_step,
    "xar": xar_step,
    "xar of tokens": lambda: xar_step(entity="token"),
    "xar of scales": lambda: xar_step(entity="scale"),
    "far": far_step,
}


def batch() -> dict[str, Tensor]:
    return {
        "image": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8),
        "semantic": torch.randint(0, 32, (2, 64)),
        "visual": torch.randint(0, 48, (2, 64)),
        "label": torch.randint(0, 3, (2,)),
    }


def log_of(folder: Path) -> MetricsLog:
    plan = RunPlan(
        folder=folder,
        dataset=DatasetInfo(kind="shards", classes=("a",), num_images=40, image_size=32, shards=()),
        seed=0,
        steps_per_epoch=100,
        schedule=ScheduleConfig(log_every_steps=50),
        optimizer=PLAIN,
        scaling=ScalingConfig(),
    )
    worker = LocalWorker()
    return MetricsLog(plan, worker, 0, RowsSeen(folder, worker, 0, audit=False))


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("kind", STEPS)
def test_the_host_reads_once_per_step(
    kind: str, micro_batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, log = STEPS[kind](), log_of(tmp_path)
    batches = [batch() for _ in range(micro_batches)]
    step.learn(batches, 0)  # tables that are made once
    seed_step(0, 1, 0)
    with host_reads(monkeypatch) as found:
        # One is `step_generator`'s, of a number that is drawn on the CPU.
        log.add(1, step.learn(batches, 1), 1e-3)
    drawn_on_the_cpu = 0 if kind == "tokenizer" else 1
    assert found["aten._local_scalar_dense.default"] == drawn_on_the_cpu
    assert found["tolist"] == 1
    assert found.total() == 1 + drawn_on_the_cpu, found


def test_checks_of_inference_let_the_host_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not finite shows in the codes and images themselves, which go to the host anyway."""
    tokenizer = GloTokTokenizer(MODEL).requires_grad_(False).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    labels = torch.tensor([0, 2])
    far: FAR = far_step()._state.engine.module.eval()  # type: ignore[assignment]
    sampler = TokenSamplerConfig(guidance_scale=2.0, top_k=5, top_p=0.9)
    with host_reads(monkeypatch) as found:
        codes = tokenizer.look_up(images)
        tokenizer.images_of(codes)
        tokenizer.snap(torch.randn(2, 16, 8, 8))
        sample_codes(far, labels, sampler, image_ids=[0, 1], seed=0)
    assert not found, found


def test_what_would_wait_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(4.0)
    with host_reads(monkeypatch) as found:
        waiting = (
            values.sum().item(),
            float(values.sum()),
            int(values[0]),
            bool(values[0]),
            values[values > 1],
            values.nonzero(),
            values.tolist(),
            values.cpu(),
            torch.tensor([1, 2]),
            values.repeat_interleave(torch.ones(4).long()),
        )
    # The list of repeats is no tensor made of a list, and stays uncounted.
    assert found.total() == len(waiting), found
