"""A plain training loop of FAR, which `benchmarks.overhead` compares with: torch, the model and nothing between."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed
from torch.nn.functional import cross_entropy

from glotok_ray.config import FARRun
from glotok_ray.nn.far import FAR


class Plain:
    """A process per worker, with nothing between torch and the model."""

    def __init__(self, recipe: FARRun, folder: Path, workers: int, threads: int) -> None:
        folder.mkdir()
        self._log = folder / "seconds.txt"
        context = multiprocessing.get_context("spawn")
        self._ranks = [
            context.Process(
                target=_learn_plainly, args=(recipe, folder, rank, workers, threads), daemon=True
            )
            for rank in range(workers)
        ]
        for process in self._ranks:
            process.start()

    def steps(self) -> list[float]:
        """What rank 0 has written."""
        lines = self._log.read_text().splitlines(True) if self._log.is_file() else []
        return [float(line) for line in lines if line.endswith("\n")]

    def processes(self) -> list[psutil.Process]:
        """The ranks."""
        if not all(process.is_alive() for process in self._ranks):
            raise SystemExit("overhead: a rank of the plain loop ended; its error is above")
        return [psutil.Process(process.pid) for process in self._ranks]

    def end(self) -> None:
        """Kill them all."""
        for process in self._ranks:
            process.kill()
            process.join()


def _learn_plainly(recipe: FARRun, folder: Path, rank: int, workers: int, threads: int) -> None:
    """The plain loop, for ever."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model: Any = FAR(recipe.model).train()
    batch = recipe.schedule.global_batch_size // workers
    if workers > 1:
        meet = f"file://{folder}/meet"
        torch.distributed.init_process_group(
            "gloo", init_method=meet, rank=rank, world_size=workers
        )
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.optimizer.learning_rate,
        betas=recipe.optimizer.betas,
        weight_decay=recipe.optimizer.weight_decay,
    )
    codebooks = recipe.model.codebooks
    with (folder / "seconds.txt").open("a", buffering=1) as log:
        before = time.perf_counter()
        while True:
            shape = (batch, recipe.model.grid_size**2)
            codes = torch.stack([torch.randint(book.size, shape) for book in codebooks], dim=1)
            logits = model(codes, torch.randint(1000, (batch,)))
            terms = [
                cross_entropy(found.flatten(0, 1), codes[:, place].flatten())
                for place, found in enumerate(logits)
            ]
            torch.stack(terms).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            now = time.perf_counter()
            if rank == 0:
                log.write(f"{now - before}\n")
            before = now
