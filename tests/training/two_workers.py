"""One rank of tests/training/test_zero.py: the same small training under every ZeRO stage, over gloo.

python tests/training/two_workers.py FOLDER      with RANK and WORLD_SIZE set
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from small_tokenizer import MODEL, Training, training_of, write_snapshot

from glotok_ray.config import (
    DiscriminatorConfig,
    OptimizerConfig,
    RelationConfig,
    ScalingConfig,
    TokenizerLossConfig,
    TokenizerRun,
    override,
)
from glotok_ray.losses.relation import codebook_histogram
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.perceptual import build_perceptual
from glotok_ray.training import engine
from glotok_ray.training.engine import make_engine
from glotok_ray.training.runs import place
from glotok_ray.training.schedule import seed_step
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.tokenizer_step import FrozenNetworks
from glotok_ray.training.worker import DistributedWorker, Worker

STEPS = 7
RESUMED_FROM = 4
# The discriminator's BatchNorm sees one worker's images, so it stays out where workers are compared with one process.
RUN = TokenizerRun(
    model=override(MODEL, {"codebooks.0.lookup": "euclidean", "codebooks.1.size": 128}),
    discriminator=DiscriminatorConfig(base_channels=8, num_layers=2),
    loss=TokenizerLossConfig(
        perceptual_network="efficientnet_lite0",
        # Its gradient jumps where a feature lies at the corner of a ReLU6, and these tests compare roundings.
        perceptual_weight=0.01,
        adversarial_weight=0.0,
        adversarial_start_step=0,
        restart_every_steps=5,
        relation=RelationConfig(num_bins=20),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-4),
    scaling=ScalingConfig(
        num_workers=2, use_gpu=False, threads_per_worker=1, zero_stage=2, precision="fp32"
    ),
    ema_decay=0.5,
)
ADVERSARIAL = {
    "loss.adversarial_weight": 0.1,
    "loss.adaptive_adversarial_weight": True,
    "loss.lecam_weight": 0.1,
    # Reads the codebooks after the pass, when ZeRO 3 has taken the parameters away.
    "loss.entropy_weight": 0.01,
}
_deepspeed_config = engine.deepspeed_config
# What the GPU road adds to the optimizer's arguments; torch has a fused Adam for CPUs as well.
_added_arguments: dict[str, Any] = {}


def everything_in_parts(*arguments: Any) -> dict[str, Any]:
    """DeepSpeed's config without its exception for small parameters, or ZeRO 3 would leave these models whole."""
    found = _deepspeed_config(*arguments)
    found["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    found["optimizer"]["params"] |= _added_arguments
    return found


@contextmanager
def fused_adam() -> Iterator[None]:
    """Engines that are made meanwhile get the Adam that runs on GPUs."""
    _added_arguments["fused"] = True
    yield
    _added_arguments.clear()


def build(run: TokenizerRun, worker: Worker, accumulation_steps: int = 1) -> Training:
    """The parts of a run, its start drawn by a fixed seed."""
    torch.manual_seed(0)
    modules = GloTokTokenizer(run.model), PatchDiscriminator(run.discriminator)
    tokenizer, discriminator = (
        make_engine(
            place(module, worker, run.scaling), run.optimizer, run.scaling, 4, accumulation_steps
        )
        for module in modules
    )
    teacher = codebook_histogram(torch.randn(40, 8), run.loss.relation)
    frozen = FrozenNetworks(build_perceptual(run.loss), teacher, {})
    # More passes on one worker than on the other.
    validation = torch.zeros(17 - worker.rank, 3, 32, 32, dtype=torch.uint8)
    return training_of(run, (tokenizer, discriminator), frozen, worker, validation)


def all_images() -> torch.Tensor:
    """Eight smooth images for every step, uint8."""
    corners = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 255
    return torch.nn.functional.interpolate(corners, size=32, mode="bilinear").to(torch.uint8)


def learn(training: Training, worker: Worker, steps: range) -> list[float]:
    """The loss of each step, the mean over workers."""
    images = all_images()[worker.rank :: worker.world_size]
    losses = []
    for number in steps:
        seed_step(0, number, worker.rank)
        total = training.step.learn([{"image": images}], number)["total"]
        losses.append(float(worker.all_sum(total)) / worker.world_size)
    return losses


def interrupted(run: TokenizerRun, worker: Worker, folder: Path) -> dict[str, Any]:
    """Losses, and those after a resumption in the middle; what says whether each optimizer is fused."""
    training = build(run, worker)
    curve = learn(training, worker, range(RESUMED_FROM))
    folder.mkdir(exist_ok=True)
    write_snapshot(training.state, folder)
    worker.barrier()
    curve += learn(training, worker, range(RESUMED_FROM, STEPS))
    resumed = build(run, worker)
    resumed.state.load(folder)
    again = learn(resumed, worker, range(RESUMED_FROM, STEPS))
    optimizer = resumed.state.tokenizer._engine.optimizer
    groups = getattr(optimizer, "optimizer", optimizer).param_groups
    fused = [group["fused"] for group in groups]
    return {"curve": curve, "again": again, "fused": fused}


def stopped(run: TokenizerRun, worker: Worker) -> dict[str, Any]:
    """What is raised where one worker alone meets NaN in the last of two micro batches, and whether anything moved."""
    step, state, _ = build(run, worker, accumulation_steps=2)
    engines = state.tokenizer, state.discriminator
    before = [shard.clone() for each in engines for shard in each.shards()]
    perceptual, calls = step._frozen.perceptual, itertools.count()

    def broken(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        value = perceptual(x, y)
        return value * float("nan") if worker.rank == 1 and next(calls) == 1 else value

    step._frozen = step._frozen._replace(perceptual=broken)
    step.flags.carry("due", 1.0 + worker.rank)
    images = all_images()[worker.rank :: worker.world_size]
    text = ""
    try:
        step.learn([{"image": half} for half in images.split(2)], 3)
    except FloatingPointError as error:
        text = str(error)
    after = [shard for each in engines for shard in each.shards()]
    kept = all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    return {"text": text, "kept": kept, "sums": step.flags.sums}


def run_pair(script: Path, folder: Path, *arguments: str, world_size: int = 2) -> None:
    """Run `script FOLDER ARGUMENTS` as two ranks, or as many, and wait for all; their logs go to the folder."""
    root, processes = Path(__file__).parents[2], []
    (folder / "meet").unlink(missing_ok=True)
    for rank in map(str, range(world_size)):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(world_size)}
        environment["PYTHONPATH"] = str(root)
        with (folder / f"log-{rank}.txt").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(script), str(folder), *arguments],
                    env={**os.environ, **environment},
                    cwd=root,
                    stdout=log,
                    stderr=log,
                )
            )
    codes = [process.wait(timeout=600) for process in processes]
    assert not any(codes), (folder / "log-0.txt").read_text()[-3000:]


def start_group(folder: Path) -> DistributedWorker:
    """Meet the other rank, in a process whose engines keep nothing whole."""
    engine.deepspeed_config = everything_in_parts
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    return DistributedWorker(torch.device("cpu"))


def end_group(worker: Worker) -> None:
    """Leave together: a rank that leaves early breaks the other's connections, and gloo aborts."""
    worker.barrier()
    torch.distributed.destroy_process_group()


def main(folder: Path) -> None:
    """Everything that test_zero.py reads, for each stage in turn."""
    worker = start_group(folder)
    answers = {}
    for stage in (0, 1, 2, 3):
        run = override(RUN, {"scaling.zero_stage": stage})
        training = build(run, worker)
        curve = learn(training, worker, range(RESUMED_FROM))
        norm = float(training.state.tokenizer.gradient_norm)
        copies = Snapshot()
        training.state.snapshot(copies)
        copies.complete()
        curve += learn(training, worker, range(RESUMED_FROM, STEPS))
        # Only now, when the weights have moved on, as a slow disk would have it.
        copies.write(folder / f"stage-{stage}")
        worker.barrier()
        training.state.export(folder / f"stage-{stage}")
        resumed = build(run, worker)
        resumed.state.load(folder / f"stage-{stage}")
        again = learn(resumed, worker, range(RESUMED_FROM, STEPS))
        adversarial = build(override(run, ADVERSARIAL), worker)
        rival = learn(adversarial, worker, range(3))
        thrifty = override(
            run, {"scaling.precision": "bf16_autocast", "scaling.activation_checkpointing": True}
        )
        masters = override(run, {"scaling.precision": "bf16", "scaling.zero_stage": stage or 1})
        answers[stage] = {
            "curve": curve,
            "again": again,
            "rival": rival,
            "norm": norm,
            "rival_norm": float(adversarial.state.discriminator.gradient_norm),
            "thrifty": learn(build(thrifty, worker), worker, range(2)),
            "masters": learn(build(masters, worker), worker, range(2)),
            "metrics": training.validation.evaluate(),
            "stopped": stopped(override(run, ADVERSARIAL), worker),
        }
        with fused_adam():
            answers[stage]["fused"] = interrupted(run, worker, folder / f"fused-{stage}")
    torch.save(answers, folder / f"answers-{worker.rank}.pt")
    end_group(worker)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
