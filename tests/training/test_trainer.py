"""The loop itself, on a toy model: resuming equals not stopping, damage is passed over, broken losses stop the run."""

import json
import logging

import pytest
import torch
from torch import nn

from glotok_ray.artefact import ArtefactError
from glotok_ray.config import OptimizerConfig, ScheduleConfig
from glotok_ray.training import checkpoint
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.trainer import RunPlan, Trainer
from glotok_ray.training.worker import LocalWorker


class ToyStep:
    """Fits a noisy target: the noise comes from the step's seed, as dropout and flow times do."""

    def __init__(self):
        torch.manual_seed(0)
        self.engine = TorchEngine(
            nn.Linear(3, 1), OptimizerConfig(learning_rate=0.05), accumulation_steps=2
        )
        self.break_at = -1

    def learn(self, batches, step):
        total = torch.zeros(())
        for batch in batches:
            loss = (
                (self.engine(batch["x"]) - batch["x"].sum(1, keepdim=True) - torch.randn(()))
                .square()
                .mean()
            )
            if step == self.break_at:
                loss = loss * float("nan")
            self.engine.backward(loss)
            self.engine.step()
            total += loss.detach() / len(batches)
        return {"total": total}

    def set_learning_rate(self, learning_rate):
        self.engine.set_learning_rate(learning_rate)

    def evaluate(self):
        return {"weight": float(self.engine.module.weight.detach().sum())}

    def save(self, folder):
        self.engine.save(folder / "toy")

    def load(self, folder):
        self.engine.load(folder / "toy")


def batches(first_step):
    generator = torch.Generator().manual_seed(7)
    everything = [{"x": torch.randn(4, 3, generator=generator)} for _ in range(100)]
    return iter(everything[first_step * 2 :])


def fit(folder, *, stop=0, keep=10, change=None):
    schedule = ScheduleConfig(
        global_batch_size=8,
        micro_batch_size=4,
        epochs=4,
        log_every_steps=1,
        checkpoints_to_keep=keep,
        stop_after_steps=stop,
    )
    optimizer = OptimizerConfig(learning_rate=0.05, schedule="warmup_cosine", warmup_fraction=0.25)
    plan = RunPlan(
        folder=folder,
        seed=3,
        steps_per_epoch=5,
        accumulation_steps=2,
        schedule=schedule,
        optimizer=optimizer,
    )
    folder.mkdir(exist_ok=True)
    step, worker = ToyStep(), LocalWorker()
    if change:
        change(step)
    Trainer(step, worker, plan).fit(batches)
    return worker.reports


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/total"] for line in lines if "train/total" in line}


def test_four_epochs_equal_two_and_two(tmp_path):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", stop=10)
    assert len(losses(tmp_path / "parts")) == 10
    fit(tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 20
    assert [report["step"] for report in whole] == [5, 10, 15, 20]


def test_stopping_inside_an_epoch_loses_nothing(tmp_path):
    fit(tmp_path / "whole")
    fit(tmp_path / "parts", stop=7)
    fit(tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog):
    fit(tmp_path / "whole")
    fit(tmp_path / "run", stop=10)
    newest = checkpoint.newest_checkpoint(tmp_path / "run" / "checkpoints")
    damaged = newest / "toy" / "engine.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        fit(tmp_path / "run")
    assert "engine.pt: differs from its sha256" in caplog.text
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_an_unfinished_checkpoint_is_no_checkpoint(tmp_path):
    fit(tmp_path / "run", stop=5)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-000000009").mkdir()
    assert checkpoint.checkpoint_step(checkpoint.newest_checkpoint(folder)) == 5


def test_another_number_of_workers_is_refused_by_name(tmp_path):
    fit(tmp_path / "run", stop=5)
    manifest = tmp_path / "run" / "checkpoints" / "step-000000005" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"world_size": 1', '"world_size": 4'))
    with pytest.raises(ArtefactError, match=r"saved by 4 workers, and this run has 1; set scaling"):
        fit(tmp_path / "run")


def test_old_checkpoints_are_removed(tmp_path):
    fit(tmp_path / "run", keep=2)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000000015", "step-000000020"]


def test_a_loss_that_is_not_finite_stops_the_run_with_a_remedy(tmp_path):
    def break_it(step):
        step.break_at = 12

    with pytest.raises(
        FloatingPointError, match=r"step 12: train/total not finite.*lower optimizer\.learning_rate"
    ):
        fit(tmp_path / "run", change=break_it)
    assert (
        checkpoint.checkpoint_step(checkpoint.newest_checkpoint(tmp_path / "run" / "checkpoints"))
        == 10
    )
