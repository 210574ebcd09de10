"""A plain training loop of FAR, which `benchmarks.overhead` compares with: torch, the model and nothing between.

It does what the recipe asks for, as a script of one page would: AdamW with weight decay on matrices, clipped gradients,
DistributedDataParallel for two workers, and torch's own moving average of the weights where the recipe keeps one.
"""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.overhead_parts import STEP, WORKERS
from glotok_ray.config import FARRun
from glotok_ray.nn.far import FAR
from glotok_ray.training.profiling import AVERAGE, BACKWARD, DATA, FORWARD, METRICS, OPTIMIZER
from glotok_ray.training.step_times import WARMUP_STEPS


class Plain:
    """A process per worker, with nothing between torch and the model."""

    def __init__(
        self, recipe: FARRun, folder: Path, workers: int, threads: int, traced_steps: int = 0
    ) -> None:
        folder.mkdir()
        self._log = folder / "seconds.txt"
        self.trace = folder / "trace.json.gz"
        context = multiprocessing.get_context("spawn")
        arguments = [
            (recipe, folder, rank, workers, threads, 0 if rank else traced_steps)
            for rank in range(workers)
        ]
        self._ranks = [
            context.Process(target=_learn_plainly, args=each, daemon=True) for each in arguments
        ]
        for process in self._ranks:
            process.start()

    def steps(self) -> list[float]:
        """What rank 0 has written."""
        lines = self._log.read_text().splitlines(True) if self._log.is_file() else []
        return [float(line) for line in lines if line.endswith("\n")]

    def processes(self) -> dict[psutil.Process, str]:
        """The ranks."""
        if not all(process.is_alive() for process in self._ranks):
            raise SystemExit("overhead: a rank of the plain loop ended; its error is above")
        return {psutil.Process(process.pid): WORKERS for process in self._ranks}

    def end(self) -> None:
        """Kill them all."""
        for process in self._ranks:
            process.kill()
            process.join()


def _learn_plainly(
    recipe: FARRun, folder: Path, rank: int, workers: int, threads: int, traced_steps: int
) -> None:
    """The plain loop, for ever."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    bare = FAR(recipe.model).train()
    model: Any = bare
    batch = recipe.schedule.global_batch_size // workers
    if workers > 1:
        meet = f"file://{folder}/meet"
        torch.distributed.init_process_group(
            "gloo", init_method=meet, rank=rank, world_size=workers
        )
        model = torch.nn.parallel.DistributedDataParallel(bare)
    average = None
    if recipe.ema_decay:
        average = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
    optimizer = _optimizer(bare, recipe)
    codebooks = recipe.model.codebooks
    shape = (batch, recipe.model.grid_size**2)
    before = time.perf_counter()
    with (folder / "seconds.txt").open("a", buffering=1) as log:
        for _ in _traced(folder / "trace.json.gz", traced_steps):
            with record_function(STEP):
                with record_function(DATA):
                    codes = torch.stack(
                        [torch.randint(book.size, shape) for book in codebooks], dim=1
                    )
                    labels = torch.randint(1000, (batch,))
                with record_function(FORWARD):
                    terms = [
                        cross_entropy(found.flatten(0, 1), codes[:, place].flatten())
                        for place, found in enumerate(model(codes, labels))
                    ]
                    loss = torch.stack(terms).mean()
                with record_function(BACKWARD):
                    loss.backward()
                with record_function(OPTIMIZER):
                    torch.nn.utils.clip_grad_norm_(
                        bare.parameters(), recipe.optimizer.gradient_clip
                    )
                    optimizer.step()
                    optimizer.zero_grad()
                if average is not None:
                    with record_function(AVERAGE):
                        average.update_parameters(bare)
                with record_function(METRICS):
                    now = time.perf_counter()
                    if rank == 0:
                        log.write(f"{now - before}\n")
                    before = now


def _optimizer(model: torch.nn.Module, recipe: FARRun) -> torch.optim.AdamW:
    settings = recipe.optimizer
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)


def _traced(path: Path, count: int) -> Iterator[int]:
    """Numbers without end; after the warm-up `count` of the steps are traced, as in a run of ours."""
    step = 0
    while step < WARMUP_STEPS:
        yield step
        step += 1
    if count:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(count):
                yield step
                step += 1
        profiler.export_chrome_trace(str(path))
    while True:
        yield step
        step += 1
