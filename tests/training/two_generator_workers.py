"""One rank of tests/training/test_generator_zero.py: small generators under every ZeRO stage, over gloo.

python tests/training/two_generator_workers.py FOLDER      with RANK and WORLD_SIZE set
"""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from two_workers import end_group, start_group

from glotok_ray.config import (
    FARConfig,
    OptimizerConfig,
    ScalingConfig,
    VocabularyConfig,
    XARConfig,
    override,
)
from glotok_ray.config.var import VARConfig
from glotok_ray.losses.flow_matching import flow_matching_loss, noisy_entities
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.generator import AVERAGE_FILE, build_generator
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import Engine, make_engine
from glotok_ray.training.generator_state import GeneratorState
from glotok_ray.training.generator_step import (
    GeneratorStep,
    Objective,
    ScaleObjective,
    TokenObjective,
)
from glotok_ray.training.runs import place
from glotok_ray.training.schedule import seed_step
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker
from tests.small_pyramid import SmallPyramid

KINDS = ("xar", "xar_clean", "far", "var")
STEPS = 5
RESUMED_FROM = 3
SCALING = ScalingConfig(num_workers=2, use_gpu=False, precision="fp32")
OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.02)
# Nothing that a worker draws for itself.
XAR_SIZE = XARConfig(
    grid_size=4, cell_size=2, channels=6, width=32, depth=2, num_heads=2, num_classes=5, dropout=0.0
)
FAR_SIZE = FARConfig(
    grid_size=4,
    codebooks=(
        VocabularyConfig(name="visual", size=12),
        VocabularyConfig(name="semantic", size=10),
    ),
    width=32,
    depth=2,
    head_depth=2,
    num_heads=2,
    mlp_multiple=1,
    num_classes=5,
    dropout=0.0,
    token_dropout=0.0,
)


VAR_SIZE = VARConfig(
    scale_sides=(1, 2, 4),
    width=32,
    depth=2,
    num_heads=2,
    num_codes=12,
    code_width=6,
    num_classes=5,
    stochastic_depth=0.0,
    gate_scale=1.0,
)
SCALES = ("scale_1x1", "scale_2x2", "scale_4x4")


class StoredFlow:
    """Flow matching on clean tokens, noise and times that the batch brings; with `clean_context` as teacher forcing."""

    def __init__(self, *, clean_context: bool) -> None:
        self._clean_context = clean_context

    def __call__(self, engine: Engine, batch: dict[str, Tensor], _: object) -> dict[str, Tensor]:
        """The loss under "loss"."""
        clean, noise, times = batch["clean"], batch["noise"], batch["times"]
        noisy = noisy_entities(clean, noise, times, XAR_SIZE.entity_lengths)
        dtype = next(engine.module.parameters()).dtype
        context = (clean.to(dtype),) if self._clean_context else ()
        velocity = engine(noisy.to(dtype), times, batch["label"], *context)
        return {"loss": flow_matching_loss(velocity, clean, noise)}


class Tokens(TokenObjective):
    """Cross-entropy, no label dropped."""

    def __call__(self, *arguments: object) -> dict[str, Tensor]:
        """The loss under "loss"."""
        return {"loss": super().__call__(*arguments)["cross_entropy"]}


class Scales(ScaleObjective):
    """Cross-entropy of codes of several scales, no label dropped."""

    def __init__(self) -> None:
        tokenizer: Any = SimpleNamespace(contribution=SmallPyramid(VAR_SIZE))
        super().__init__(tokenizer, VAR_SIZE, SCALES, label_dropout=0.0, total_steps=STEPS)

    def __call__(self, *arguments: Any) -> dict[str, Tensor]:
        """The loss under "loss"."""
        return {"loss": super().__call__(*arguments)["cross_entropy"]}


class Training(NamedTuple):
    """What learns, and what changes."""

    step: GeneratorStep
    state: GeneratorState


def build(kind: str, scaling: ScalingConfig, worker: Worker) -> Training:
    """The parts of a generator's training, its start drawn by a fixed seed."""
    torch.manual_seed(0)
    model = build_generator({"far": FAR_SIZE, "var": VAR_SIZE}.get(kind, XAR_SIZE))
    engine = make_engine(place(model, worker, scaling), OPTIMIZER, scaling, 2, 2)
    if kind == "far":
        objective: Objective = Tokens(FAR_SIZE, label_dropout=0.0)
    elif kind == "var":
        objective = Scales()
    else:
        objective = StoredFlow(clean_context=kind == "xar_clean")
    average = ExponentialMovingAverage(engine, 0.5)
    # Facts of generator.json, with which checkpoints hold the weights for sampling.
    facts = {"latent_scale": model.latent_scale.tolist()} if isinstance(model, XAR) else {}
    state = GeneratorState(engine, average, worker, exported=facts)
    return Training(GeneratorStep(state, objective, worker), state)


def batches(worker: Worker) -> list[dict[str, Tensor]]:
    """Two micro batches of this worker's share of eight images."""
    draw = torch.Generator().manual_seed(1)
    images = {
        "clean": torch.randn(8, 16, 6, generator=draw),
        "noise": torch.randn(8, 16, 6, generator=draw),
        "times": torch.rand(8, 4, generator=draw),
        "visual": torch.randint(0, 12, (8, 16), generator=draw),
        "semantic": torch.randint(0, 10, (8, 16), generator=draw),
        "label": torch.randint(0, 5, (8,), generator=draw),
    }
    images |= {
        name: torch.randint(0, 12, (8, length), generator=draw)
        for name, length in zip(SCALES, VAR_SIZE.scale_lengths, strict=True)
    }
    own = {name: value[worker.rank :: worker.world_size] for name, value in images.items()}
    size = 8 // worker.world_size // 2
    return [
        {name: value[start : start + size] for name, value in own.items()} for start in (0, size)
    ]


def learn(training: Training, worker: Worker, steps: range) -> list[float]:
    """The loss of each step, the mean over workers."""
    losses = []
    for number in steps:
        seed_step(0, number, worker.rank)
        loss = training.step.learn(batches(worker), number)["loss"]
        losses.append(float(worker.all_sum(loss)) / worker.world_size)
    return losses


def interrupted(
    kind: str, scaling: ScalingConfig, worker: Worker, folder: Path
) -> dict[str, object]:
    """A run without a break, and the end of it again from a snapshot that is written when the weights have moved on."""
    training = build(kind, scaling, worker)
    curve = learn(training, worker, range(RESUMED_FROM))
    copies = Snapshot()
    training.state.snapshot(copies)
    copies.complete()
    average = training.state.average.whole(keep=True)
    curve += learn(training, worker, range(RESUMED_FROM, STEPS))
    copies.write(folder)
    worker.barrier()
    exported = load_file(folder / AVERAGE_FILE)
    resumed = build(kind, scaling, worker)
    resumed.state.load(folder)
    return {
        "curve": curve,
        "again": learn(resumed, worker, range(RESUMED_FROM, STEPS)),
        "average": training.state.average.whole(keep=True),
        "exported": average.keys() == exported.keys()
        and all(torch.equal(value, exported[name]) for name, value in average.items()),
    }


class Operations(TorchDispatchMode):
    """Counts what torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass it on."""
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def broken_gradient(scaling: ScalingConfig, worker: Worker) -> dict[str, object]:
    """Whether a gradient of one worker that is not finite leaves all weights as they are, and the next one moves them;
    and the operations of a whole step.
    """
    training = build("xar", scaling, worker)
    engine = training.state.engine

    def moves() -> tuple[bool, bool]:
        before = [shard.clone() for shard in engine.shards()]
        loss = learn(training, worker, range(1))[0]
        after = engine.shards()
        still = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return not still, bool(torch.tensor(loss).isfinite())

    weight = next(iter(engine.module.parameters()))
    hook = weight.register_hook(lambda gradient: gradient * float("nan" if worker.rank else "1.0"))
    broken = moves()
    norm = float(engine.gradient_norm)
    hook.remove()
    moves()
    with Operations() as counted:
        whole = moves()
    # The first one had no moments, by which a gradient of zeros would move weights too.
    hook = weight.register_hook(lambda gradient: gradient * float("inf" if worker.rank else "1.0"))
    later = moves()
    hook.remove()
    average = training.state.average.whole(keep=True).values()
    return {
        "broken": broken,
        "norm": norm,
        "whole": whole,
        "later": later,
        "average": all(bool(value.isfinite().all()) for value in average),
        "operations": dict(counted.calls),
    }


def main(folder: Path) -> None:
    """Everything that test_generator_zero.py reads, for each kind and stage in turn."""
    worker = start_group(folder)
    answers = {}
    for kind in KINDS:
        for stage in (0, 1, 2, 3):
            scaling = override(SCALING, {"zero_stage": stage})
            changes = {"precision": "bf16", "zero_stage": stage or 1}
            thrifty = override(scaling, {**changes, "activation_checkpointing": True})
            autocast = override(scaling, {"precision": "bf16_autocast"})
            answers[f"{kind}-{stage}"] = {
                "fp32": interrupted(kind, scaling, worker, folder / f"{kind}-{stage}"),
                "bf16": interrupted(kind, thrifty, worker, folder / f"{kind}-{stage}-bf16"),
                "bf16_autocast": interrupted(
                    kind, autocast, worker, folder / f"{kind}-{stage}-autocast"
                ),
            }
    for stage in (0, 1, 2, 3):
        # DeepSpeed keeps bf16 weights with fp32 masters from stage 1 on.
        for precision in ("bf16", "bf16_autocast", "fp32")[stage == 0 :]:
            scaling = override(SCALING, {"zero_stage": stage, "precision": precision})
            answers[f"broken-{stage}-{precision}"] = broken_gradient(scaling, worker)
    torch.save(answers, folder / f"answers-{worker.rank}.pt")
    end_group(worker)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
