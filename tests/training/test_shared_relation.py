"""The relation loss over real worker processes: gloo, the Worker seam, 2 and 3 ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glotok_ray.config import RelationConfig
from glotok_ray.losses.relation import codebook_histogram, relation_loss

RANK = """
import os, sys, torch
import torch.distributed
from glotok_ray.config import RelationConfig
from glotok_ray.losses.relation import codebook_histogram, relation_loss
from glotok_ray.training.worker import DistributedWorker
folder = sys.argv[1]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet",
    rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
worker = DistributedWorker(torch.device("cpu"))
leaf = torch.load(f"{folder}/codes.pt", weights_only=True).requires_grad_()
teacher = torch.load(f"{folder}/teacher.pt", weights_only=True)
loss = relation_loss(codebook_histogram(leaf, RelationConfig(), worker), teacher, reduction="sum")
loss.backward()
mean = worker.all_sum(leaf.grad) / worker.world_size
torch.save((loss.detach(), mean), f"{folder}/{worker.rank}.pt")
# A rank that leaves early breaks the others' connections, which gloo answers by aborting.
worker.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_together_have_the_loss_and_the_gradient_of_one(workers: int, tmp_path: Path):
    torch.manual_seed(0)
    codes = torch.randn(900, 8)
    teacher = codebook_histogram(torch.randn(300, 8) + 0.3, RelationConfig())
    torch.save(codes, tmp_path / "codes.pt")
    torch.save(teacher, tmp_path / "teacher.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(workers)},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(workers)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * workers
    leaf = codes.requires_grad_()
    loss = relation_loss(codebook_histogram(leaf, RelationConfig()), teacher, reduction="sum")
    loss.backward()
    for rank in range(workers):
        found, gradient = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(found, loss.detach())
        assert (gradient - leaf.grad).norm() <= 1e-6 * leaf.grad.norm()
