"""What a checkpoint of xAR-B costs a training on CPUs: the wait for a copy to host memory against writing all at once.

    python -m benchmarks.checkpoint_stall xar_b
    python -m benchmarks.checkpoint_stall xar_b --workers 2 --json

Real weights, Adam's state and averaged weights at full size, in DeepSpeed's engine. The other way, stated here in plain
words, is to write while all wait, and let rank 0 read the files again for their sha256. Both take turns in one run.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from benchmarks import measured
from glotok_ray.config import ScalingConfig, XARConfig
from glotok_ray.losses.flow_matching import flow_matching_loss
from glotok_ray.nn.xar import XAR
from glotok_ray.recipes import train_generator as generators
from glotok_ray.storage import artefact
from glotok_ray.training.checkpoint import agreed_checkpoint
from glotok_ray.training.checkpoint_writer import CheckpointWriter
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import DeepSpeedEngine, make_engine
from glotok_ray.training.peak_memory import count_parameters
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import DistributedWorker

_RECIPES = ("xar_b", "xar_l", "xar_h")


class Training:
    """A generator that learns the same image again and again."""

    def __init__(self, recipe: str, arguments: argparse.Namespace, worker: DistributedWorker):
        run = generators.RECIPES[recipe]()
        scaling = ScalingConfig(
            num_workers=worker.world_size,
            use_gpu=False,
            precision="fp32",
            zero_stage=arguments.zero_stage,
        )
        torch.manual_seed(0)
        model = XAR(run.model)
        self.parameters = count_parameters(model)
        made = make_engine(model, run.optimizer, scaling, 1, 1)
        assert isinstance(made, DeepSpeedEngine)
        self.engine, self.worker = made, worker
        self.average = ExponentialMovingAverage(made, run.ema_decay)
        self._inputs = _image(run.model)

    def step(self) -> None:
        """Forward, backward, Adam, average."""
        clean, noise, times, labels = self._inputs
        velocity = self.engine(clean, times, labels)
        self.engine.backward(flow_matching_loss(velocity, clean, noise))
        self.engine.step()
        self.average.update(100)

    def snapshot(self, into: Snapshot) -> None:
        """As `GeneratorStep` does."""
        self.engine.snapshot(into.within("generator"))
        self.average.snapshot(into, self.worker.rank)

    def save_while_all_wait(self, folder: Path, step: int) -> None:
        """Write, wait, read again for the digests, rename, remove the one before."""
        rank, barrier = self.worker.rank, self.worker.barrier
        partial, final = folder / f".step-{step}.partial", folder / f"step-{step:09d}"
        if rank == 0:
            partial.mkdir(parents=True)
        barrier()
        inner: Any = self.engine._engine
        ours, inner.checkpoint_engine = (
            inner.checkpoint_engine,
            TorchCheckpointEngine(inner._config),
        )
        inner.save_checkpoint(str(partial / "generator"), tag="state", save_latest=False)
        inner.checkpoint_engine = ours
        torch.save(self.average._shards, partial / f"average-{rank:04d}.pt")
        barrier()
        if rank == 0:
            artefact.write_manifest(partial, "checkpoint", known=_digests(partial), step=step)
            partial.rename(final)
            for other in folder.glob("step-*"):
                if other != final:
                    shutil.rmtree(other)
        barrier()


def _digests(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file, read in one thread."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, artefact.sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _image(size: XARConfig) -> tuple[torch.Tensor, ...]:
    clean = torch.randn(1, size.num_tokens, size.channels)
    times = torch.rand(1, size.num_entities)
    return clean, torch.randn_like(clean), times, torch.zeros(1, dtype=torch.int64)


def measure(arguments: argparse.Namespace, folder: Path, worker: DistributedWorker) -> dict:
    """Seconds of both ways, on this rank, and what else was seen."""
    training = Training(arguments.recipe, arguments, worker)
    training.step()
    writer = CheckpointWriter(folder / "copied", worker, facts={}, keep=1, retry_minutes=10)
    found: dict[str, list[float]] = {}

    def timed(name: str, action: Callable[[], Any]) -> None:
        worker.barrier()
        start = time.perf_counter()
        action()
        worker.barrier()
        found.setdefault(name, []).append(time.perf_counter() - start)

    gib = 0.0
    for number in range(1, arguments.repeats + 2):
        timed("step", training.step)
        timed("wait", lambda n=number: training.save_while_all_wait(folder / "waited", n))
        name = "copy" if number > 1 else "first copy"
        timed(name, lambda n=number: writer.save(n, training.snapshot))
        timed("step beside the write", training.step)
        writer.wait()
        written = writer.take_written()
        if written is not None:
            found.setdefault("write", []).append(written.seconds)
            gib = written.gib
    newest = folder / "copied" / f"step-{arguments.repeats + 1:09d}"
    if worker.rank == 0:
        timed_alone = [measured.seconds_of(lambda: _digests(newest))[0] for _ in range(2)]
        found["verify twice, one thread"] = [sum(timed_alone)]
    timed("verify", lambda: agreed_checkpoint(folder / "copied", worker, retry_minutes=0))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {"parameters": training.parameters, "gib": gib, "seconds": medians}


def _serve(rank: int, arguments: argparse.Namespace, folder: Path, answers: Any) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // arguments.workers))
    # DeepSpeed asks for what a launcher would have set.
    os.environ["LOCAL_RANK"] = str(rank)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=arguments.workers,
    )
    worker = DistributedWorker(torch.device("cpu"))
    found = measure(arguments, folder, worker)
    if rank == 0:
        answers.put(found)
    worker.barrier()
    torch.distributed.destroy_process_group()


def main() -> None:
    """Measure and print."""
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.add_argument("recipe", choices=_RECIPES, metavar="RECIPE", help=", ".join(_RECIPES))
    parser.add_argument("--workers", type=int, choices=(1, 2), default=1)
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=2)
    parser.add_argument("--repeats", type=int, default=3, help="checkpoints of each kind (3)")
    parser.add_argument("--folder", help="where the temporary folder is made; the system's own")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        answers: Any = context.SimpleQueue()
        ranks = [
            context.Process(target=_serve, args=(rank, arguments, Path(name), answers))
            for rank in range(arguments.workers)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            raise SystemExit("checkpoint_stall: a worker failed; its error is above")
        found = answers.get()
    _answer(arguments, found)


def _answer(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    seconds = found["seconds"]
    ratios = {
        "stall, copied / written while all wait": seconds["copy"] / seconds["wait"],
        "first stall, into fresh memory / the same": seconds["first copy"] / seconds["wait"],
        "step beside the write / step": seconds["step beside the write"] / seconds["step"],
        "verification, once in parallel / twice in one thread": seconds["verify"]
        / seconds["verify twice, one thread"],
    }
    row = [
        arguments.recipe,
        f"{found['parameters'] / 1e6:.0f} M",
        str(arguments.workers),
        f"{found['gib']:.2f}",
        *(f"{seconds[name]:.2f}" for name in ("wait", "copy", "first copy", "write")),
    ]
    measured.answer(
        as_json=arguments.json,
        columns=(
            "recipe",
            "parameters",
            "workers",
            "GiB",
            "s waiting",
            "s copying",
            "s first copy",
            "s to write",
        ),
        rows=[row],
        figures={"zero_stage": arguments.zero_stage, "workers": arguments.workers, **found},
        ratios=ratios,
    )


if __name__ == "__main__":
    main()
