"""The loop itself, on a toy model: resuming equals not stopping, damage is passed over, metrics are averages."""

import gzip
import json
import logging
import time

import pytest
import torch
from torch import nn

from glotok_ray.config import OptimizerConfig, ScalingConfig, ScheduleConfig
from glotok_ray.data.records import DatasetInfo
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError
from glotok_ray.training import checkpoint
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.finite import StepFlags
from glotok_ray.training.heartbeat import Heartbeat
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.preemption import NodeReclaimed
from glotok_ray.training.schedule import learning_rate
from glotok_ray.training.trainer import Trainer
from glotok_ray.training.worker import LocalWorker


class ToyStep:
    """Fits a noisy target: the noise comes from the step's seed, as dropout and flow times do."""

    def __init__(self):
        torch.manual_seed(0)
        self.engine = TorchEngine(
            nn.Linear(3, 1), OptimizerConfig(learning_rate=0.05), accumulation_steps=2
        )
        self.flags = StepFlags(LocalWorker())
        # As a codebook's counts: of the steps since the last evaluation.
        self.window = 0

    def learn(self, batches, step):
        self.window += 1
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
        self.flags.verdict(step)
        return {"total": total}

    def set_learning_rate(self, learning_rate):
        self.engine.set_learning_rate(learning_rate)

    def evaluate(self):
        window, self.window = self.window, 0
        return {"weight": float(self.engine.module.weight.detach().sum()), "window": window}

    def snapshot(self, into):
        self.engine.snapshot(into.within("toy"))
        into.add_state("window.pt", {"steps": self.window})

    def load(self, folder):
        self.engine.load(folder / "toy")
        self.window = torch.load(folder / "window.pt", weights_only=True)["steps"]


def batches(first_step):
    generator = torch.Generator().manual_seed(7)
    everything = [
        MicroBatch({"x": torch.randn(4, 3, generator=generator)}, ["key"] * 4, [""] * 4)
        for _ in range(100)
    ]
    return iter(everything[first_step * 2 :])


def fit(
    folder, *, stop=0, keep=10, change=None, every=1, retry_minutes=1.0, worker=None, **cadence
):
    schedule = ScheduleConfig(
        global_batch_size=8,
        micro_batch_size=4,
        epochs=4,
        log_every_steps=every,
        checkpoints_to_keep=keep,
        stop_after_steps=stop,
        **cadence,
    )
    optimizer = OptimizerConfig(learning_rate=0.05, schedule="warmup_cosine", warmup_fraction=0.25)
    plan = RunPlan(
        folder=folder,
        dataset=DatasetInfo(kind="shards", classes=("a",), num_images=40, image_size=32, shards=()),
        seed=3,
        steps_per_epoch=5,
        schedule=schedule,
        optimizer=optimizer,
        scaling=ScalingConfig(
            num_workers=1,
            use_gpu=False,
            engine="torch",
            precision="fp32",
            storage_retry_minutes=retry_minutes,
        ),
    )
    folder.mkdir(exist_ok=True)
    step, worker = ToyStep(), worker or LocalWorker()
    if change:
        change(step)
    Trainer(step, step, worker, plan, step.evaluate).fit(batches)
    return worker.reports


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def metrics(folder, name):
    return [(line["step"], line[name]) for line in lines(folder) if name in line]


def stop_at(number):
    """A change of the step: what a process looks like from outside that dies in the middle of a step."""

    def change(step):
        learn = step.learn

        def dying(batches, at):
            if at == number:
                raise RuntimeError("killed")
            return learn(batches, at)

        step.learn = dying

    return change


def checkpoints(folder):
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


def settled(folder, steps):
    """Wait until the background thread of a fit that ended in an error has committed what it was writing."""
    deadline = time.monotonic() + 30
    while checkpoints(folder) != steps and time.monotonic() < deadline:
        time.sleep(0.02)
    assert checkpoints(folder) == steps


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("dies_at", [7, 8, 9])
def test_a_run_that_dies_within_an_epoch_goes_on_from_its_last_steps(tmp_path, dies_at, every):
    fit(tmp_path / "whole", every=every)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "run", every=every, checkpoint_every_steps=2, change=stop_at(dies_at))
    settled(tmp_path / "run", [2, 4, 5, 6, 8][: 4 + (dies_at > 7)])
    seen = []
    fit(
        tmp_path / "run",
        every=every,
        checkpoint_every_steps=2,
        change=lambda step: note_steps(step, seen),
    )
    assert seen == list(range(6 if dies_at == 7 else 8, 20))
    # Lines of three steps' averages too: what a line has seen before the crash is in the checkpoint.
    assert metrics(tmp_path / "run", "train/total") == metrics(tmp_path / "whole", "train/total")
    assert metrics(tmp_path / "run", "eval/weight") == metrics(tmp_path / "whole", "eval/weight")


def test_a_run_of_so_many_steps_ends_within_an_epoch_and_its_learning_rate_with_it(tmp_path):
    seen, rates = [], []

    def note(step):
        note_steps(step, seen)
        step.set_learning_rate = rates.append

    fit(tmp_path / "run", num_steps=13, change=note)
    assert seen == list(range(13))
    assert checkpoints(tmp_path / "run") == [5, 10, 13]
    assert [step for step, _ in metrics(tmp_path / "run", "eval/weight")] == [5, 10, 13]
    optimizer = OptimizerConfig(learning_rate=0.05, schedule="warmup_cosine", warmup_fraction=0.25)
    assert rates == [pytest.approx(learning_rate(step, 13, optimizer)) for step in range(13)]
    seen.clear()
    fit(tmp_path / "more", num_steps=99, change=lambda step: note_steps(step, seen))
    assert seen == list(range(20))


def note_steps(step, seen):
    learn = step.learn

    def noted(batches, number):
        seen.append(number)
        return learn(batches, number)

    step.learn = noted


def test_checkpoints_in_quick_succession_wait_for_each_other(tmp_path):
    fit(tmp_path / "whole")
    reports = fit(tmp_path / "run", checkpoint_every_steps=1, keep=20)
    assert checkpoints(tmp_path / "run") == list(range(1, 21))
    for step in (1, 11, 20):
        path = checkpoint.checkpoint_path(tmp_path / "run" / "checkpoints", step)
        state = torch.load(path / "toy" / "engine.pt", weights_only=True)
        assert state["optimizer"]["state"][0]["step"] == step
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    # Only evaluations are told to the launcher, whose every answer takes seconds.
    assert [report["step"] for report in reports] == [5, 10, 15, 20]


def test_minutes_count_on_one_clock_from_the_last_checkpoint(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("glotok_ray.training.trainer.time.monotonic", lambda: clock[0])

    def ten_seconds(step):
        learn = step.learn

        def slow(batches, number):
            clock[0] += 10
            return learn(batches, number)

        step.learn = slow

    fit(tmp_path / "run", checkpoint_every_minutes=0.5, keep=20, change=ten_seconds, stop=10)
    # Three steps take half a minute, counted anew from the evaluations after 5 and 10; the clock is read as a step
    # begins, so it is the fourth that brings the checkpoint.
    assert checkpoints(tmp_path / "run") == [4, 5, 9, 10]


class LeavingWorker(LocalWorker):
    def release(self):
        raise NodeReclaimed


@pytest.mark.parametrize("leaves", [False, True])
def test_a_notice_that_the_node_is_taken_back_brings_a_checkpoint_at_once(
    tmp_path, monkeypatch, leaves
):
    monkeypatch.setenv("GLOTOK_PREEMPTION_NOTICE", str(tmp_path / "notice.json"))
    (tmp_path / "notice.json").write_text("of an earlier process")

    def notice_in_the_seventh(step):
        learn = step.learn

        def taken_back(batches, number):
            if number == 6:
                (tmp_path / "notice.json").unlink()
                (tmp_path / "notice.json").write_text("taken back")
            return learn(batches, number)

        step.learn = taken_back

    def run():
        worker = LeavingWorker() if leaves else LocalWorker()
        fit(tmp_path / "run", keep=20, change=notice_in_the_seventh, stop=10, worker=worker)

    # It is looked at as a step begins: the eighth step brings the checkpoint, the others are evaluations'.
    if not leaves:
        run()
        assert checkpoints(tmp_path / "run") == [5, 8, 10]
        return
    with pytest.raises(NodeReclaimed):
        run()
    # Nothing is still being written when the node is left.
    assert checkpoints(tmp_path / "run") == [5, 8]
    fit(tmp_path / "run", keep=20, stop=10)
    fit(tmp_path / "whole", keep=20, stop=10)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def without_times(folder):
    """The lines of training and evaluation, without what differs from run to run."""
    named = [
        {name: value for name, value in line.items() if name.split("/")[0] in ("train", "eval")}
        | {"step": line["step"]}
        for line in lines(folder)
    ]
    return [line for line in named if len(line) > 1]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("killed_after", [False, True])
def test_an_evaluation_before_which_the_node_was_taken_back_is_made_up_for(
    tmp_path, monkeypatch, killed_after, every
):
    notice = tmp_path / "notice.json"
    monkeypatch.setenv("GLOTOK_PREEMPTION_NOTICE", str(notice))

    def notice_in_the_ninth(step):
        learn = step.learn

        def taken_back(batches, number):
            if number == 8:
                notice.write_text("taken back")
            return learn(batches, number)

        step.learn = taken_back

    with pytest.raises(NodeReclaimed):
        fit(tmp_path / "run", every=every, change=notice_in_the_ninth, worker=LeavingWorker())
    # Saved without the evaluation that was due there.
    assert checkpoints(tmp_path / "run") == [5, 10]
    assert [step for step, _ in metrics(tmp_path / "run", "eval/weight")] == [5]
    if killed_after:
        with pytest.raises(RuntimeError, match="killed"):
            fit(tmp_path / "run", every=every, change=stop_at(13))
        assert [step for step, _ in metrics(tmp_path / "run", "eval/weight")] == [5, 10]
    fit(tmp_path / "run", every=every)
    fit(tmp_path / "whole", every=every)
    assert without_times(tmp_path / "run") == without_times(tmp_path / "whole")
    assert metrics(tmp_path / "run", "eval/window") == [(5, 5), (10, 5), (15, 5), (20, 5)]


@pytest.mark.parametrize("stop", [7, 10])
def test_what_was_evaluated_before_a_restart_is_not_evaluated_again(tmp_path, stop):
    fit(tmp_path / "run", stop=stop)
    reports = fit(tmp_path / "run")
    assert [report["step"] for report in reports] == [step for step in (10, 15, 20) if step > stop]


def test_a_checkpoint_of_an_older_version_was_evaluated(tmp_path):
    fit(tmp_path / "run", stop=10)
    path = checkpoint.newest_checkpoint(tmp_path / "run" / "checkpoints")
    state = torch.load(path / "log-0000.pt", weights_only=True)
    for name in ("rate", "evaluated_step"):
        del state[name]
    torch.save(state, path / "log-0000.pt")
    artefact.write_manifest(
        path,
        "checkpoint",
        step=10,
        state_layout=artefact.read_json(path / "manifest.json")["state_layout"],
    )
    assert [report["step"] for report in fit(tmp_path / "run")] == [15, 20]


def test_each_checkpoint_is_measured_at_its_step(tmp_path):
    fit(tmp_path / "run", checkpoint_every_steps=4, keep=20)
    for name in ("checkpoint/stall_s", "checkpoint/write_s", "checkpoint/gib"):
        found = metrics(tmp_path / "run", name)
        assert [step for step, _ in found] == [4, 5, 8, 10, 12, 15, 16, 20]
        assert all(value > 0 for _, value in found)
    assert last_metrics(tmp_path / "run")["step"] == 20
    manifest = checkpoint.newest_checkpoint(tmp_path / "run" / "checkpoints") / "manifest.json"
    files = json.loads(manifest.read_text())["files"]
    total = sum(facts["bytes"] for facts in files.values())
    assert last_metrics(tmp_path / "run")["checkpoint/gib"] * 2**30 == total


def test_a_checkpoint_that_cannot_be_written_ends_the_run_by_name(tmp_path):
    fit(tmp_path / "run", stop=5)

    def block(step):
        learn = step.learn

        def blocking(batches, number):
            (tmp_path / "run" / "checkpoints" / ".step-000000010.partial").write_text("in the way")
            return learn(batches, number)

        step.learn = blocking

    with pytest.raises(StorageError, match=r"step-000000010\.partial/.*: writing it failed"):
        fit(tmp_path / "run", change=block, retry_minutes=0.0)
    assert checkpoints(tmp_path / "run") == [5]


def test_a_loss_that_is_not_finite_leaves_the_checkpoint_before_it_whole(tmp_path):
    def break_after(step):
        snapshot, learn = step.snapshot, step.learn

        def slow(into):
            snapshot(into)
            content = into.files["toy/engine.pt"]
            into.files["toy/engine.pt"] = lambda stream: (time.sleep(0.5), content(stream))

        def breaking(batches, number):
            if number == 4:
                raise FloatingPointError("step 4: total not finite")
            return learn(batches, number)

        step.snapshot, step.learn = slow, breaking

    with pytest.raises(FloatingPointError):
        fit(tmp_path / "run", checkpoint_every_steps=4, change=break_after)
    assert checkpoints(tmp_path / "run") == [4]


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
    assert last_metrics(tmp_path / "run")["step"] == 20


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
        ('"scaling.engine": "torch"', '"scaling.engine": "deepspeed"', r"engine = deepspeed"),
        ('"checkpoint.format": 2', '"checkpoint.form": 1', r"older version.*--initial-path"),
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
    assert last_metrics(tmp_path / "run")["step"] == 20
    assert last_metrics(tmp_path / "run", step=10)["step"] == 10


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


def test_a_run_that_ends_within_the_traced_steps_leaves_a_trace_of_those_before(tmp_path):
    fit(tmp_path / "run", stop=6, profile_steps=3)
    with gzip.open(tmp_path / "run" / "profile" / "trace.json.gz") as stream:
        names = {event.get("name") for event in json.load(stream)["traceEvents"]}
    assert {name for name in names if str(name).startswith("train step")} == {"train step 5"}


def test_a_run_that_ends_within_the_warm_up_says_that_there_is_no_trace(tmp_path, caplog):
    fit(tmp_path / "run", stop=5, profile_steps=3)
    assert "schedule.profile_steps: no trace, as the run did not come to step 6" in caplog.text
    assert not (tmp_path / "run" / "profile").exists()
