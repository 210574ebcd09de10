"""The loop itself, on a toy model: resuming equals not stopping, damage is passed over, figures are averages."""

import json
import logging

import pytest
import torch
from torch import nn

from glotok_ray.artefact import ArtefactError
from glotok_ray.config import OptimizerConfig, ScalingConfig, ScheduleConfig
from glotok_ray.training import checkpoint
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.heartbeat import Heartbeat
from glotok_ray.training.trainer import RunPlan, Trainer, last_figures
from glotok_ray.training.worker import LocalWorker


class ToyStep:
    """Fits a noisy target: the noise comes from the step's seed, as dropout and flow times do."""

    def __init__(self):
        torch.manual_seed(0)
        self.engine = TorchEngine(
            nn.Linear(3, 1), OptimizerConfig(learning_rate=0.05), accumulation_steps=2
        )

    def learn(self, batches, step):
        total = torch.zeros(())
        for batch in batches:
            loss = (
                (self.engine(batch["x"]) - batch["x"].sum(1, keepdim=True) - torch.randn(()))
                .square()
                .mean()
            )
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


def fit(folder, *, stop=0, keep=10, change=None, every=1):
    schedule = ScheduleConfig(
        global_batch_size=8,
        micro_batch_size=4,
        epochs=4,
        log_every_steps=every,
        checkpoints_to_keep=keep,
        stop_after_steps=stop,
    )
    optimizer = OptimizerConfig(learning_rate=0.05, schedule="warmup_cosine", warmup_fraction=0.25)
    plan = RunPlan(
        folder=folder,
        seed=3,
        steps_per_epoch=5,
        schedule=schedule,
        optimizer=optimizer,
        scaling=ScalingConfig(num_workers=1, use_gpu=False, engine="torch", precision="fp32"),
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


def test_lines_that_a_kill_tore_do_not_stop_the_run(tmp_path):
    fit(tmp_path / "whole")
    fit(tmp_path / "run", stop=7)
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*lines[:3], lines[3][:9], *lines[4:], '{"step": 8, "train/to']))
    fit(tmp_path / "run")
    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "run") == {step: whole[step] for step in whole if step != 4}
    assert last_figures(tmp_path / "run")["step"] == 20


def test_what_is_kept_ends_with_the_newest_checkpoint_also_behind_a_damaged_one(tmp_path):
    fit(tmp_path / "run", stop=10)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-000000010" / "toy" / "engine.pt").write_bytes(b"damaged")
    # From step 5 on again, to an end before the damaged one.
    fit(tmp_path / "run", stop=7, keep=1)
    assert [path.name for path in folder.iterdir()] == ["step-000000007"]
    assert checkpoint.checkpoint_step(checkpoint.newest_checkpoint(folder)) == 7


def test_an_unfinished_checkpoint_is_no_checkpoint(tmp_path):
    fit(tmp_path / "run", stop=5)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-000000009").mkdir()
    assert checkpoint.checkpoint_step(checkpoint.newest_checkpoint(folder)) == 5


@pytest.mark.parametrize(
    ("stored", "other", "message"),
    [
        (
            '"scaling.num_workers": 1',
            '"scaling.num_workers": 4',
            r"num_workers = 4.*this run has 1",
        ),
        ('"scaling.zero_stage": 2', '"scaling.zero_stage": 3', r"zero_stage = 3.*--initial-path"),
        ('"scaling.precision": "fp32"', '"scaling.precision": "bf16"', r"precision = bf16.*fp32"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused_by_name(tmp_path, stored, other, message):
    fit(tmp_path / "run", stop=5)
    manifest = tmp_path / "run" / "checkpoints" / "step-000000005" / "manifest.json"
    text = manifest.read_text()
    assert stored in text
    manifest.write_text(text.replace(stored, other))
    with pytest.raises(ArtefactError, match=message):
        fit(tmp_path / "run")


def test_old_checkpoints_are_removed(tmp_path):
    fit(tmp_path / "run", keep=2)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000000015", "step-000000020"]


def test_a_term_that_is_there_in_some_steps_is_averaged_over_those(tmp_path):
    def now_and_then(step):
        learn = step.learn

        def sometimes(batches, number):
            extra = {"rare": torch.tensor(6.0)} if number in (1, 2) else {}
            return {**learn(batches, number), **extra}

        step.learn = sometimes

    fit(tmp_path / "run", change=now_and_then, every=5)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["train/rare"] for line in lines if "train/rare" in line] == [6.0]
    assert last_figures(tmp_path / "run")["step"] == 20
    assert last_figures(tmp_path / "run", step=10)["step"] == 10


def test_the_heartbeat_hears_the_phases_of_the_loop(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(Heartbeat, "enter", lambda _, phase, step=None: heard.append((phase, step)))
    fit(tmp_path / "run", stop=6)
    assert heard == [
        *[("data", step) for step in range(5)],
        ("evaluation", 5),
        ("checkpoint", 5),
        ("data", 5),
        ("evaluation", 6),
        ("checkpoint", 6),
        ("export", 6),
    ]
