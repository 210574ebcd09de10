"""Which checkpoint is evaluated next, which is kept as the best, and that no evaluation harms a training."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glotok_ray.config import CheckpointEvaluationConfig
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.checkpoint_watch import CheckpointWatch, MeasurementInterrupted
from glotok_ray.training.checkpoint_writer import CheckpointWriter
from glotok_ray.training.evaluated_checkpoints import (
    Measured,
    Protocol,
    best_weights,
    read_best,
)
from glotok_ray.training.worker import LocalWorker

PSNR = CheckpointEvaluationConfig(every_steps=10, metric="psnr")
PROTOCOL = Protocol(settings={"num_images": 8}, fingerprint="first")


def save(run: Path, *steps: int, keep: int = 99) -> None:
    """Checkpoints as a run commits them."""
    writer = CheckpointWriter(
        run / "checkpoints", LocalWorker(), facts={}, keep=keep, retry_minutes=0
    )
    for step in steps:
        writer.save(step, lambda into: into.add_state("state.pt", torch.zeros(3)))
    writer.wait()


class Measurement:
    """Measures as it is told, and counts."""

    def __init__(self, run: Path, values: dict[int, float | Exception | None]) -> None:
        self.run, self.values, self.measured = run, values, []

    def __call__(self, checkpoint: Path) -> Measured | None:
        step = int(checkpoint.name.removeprefix("step-"))
        self.measured.append(step)
        value = self.values.get(step, 20.0)
        if isinstance(value, Exception):
            raise value
        weights = self.run / "checkpoint_evaluation" / checkpoint.name
        weights.mkdir(parents=True)
        (weights / "weights").write_text(str(step))
        entries = {
            "reconstruction_psnr": {"value": value, "protocol": "sentence"},
            "reconstruction_fd_effnet": {"value": value, "protocol": "sentence"},
        }
        return Measured(step=step, metrics=entries, seconds=1.0, weights=weights)


def watching(
    run: Path,
    measure: Callable[[Path], Measured | None],
    config: CheckpointEvaluationConfig = PSNR,
    protocol: Protocol = PROTOCOL,
    last_step: int = 1000,
) -> CheckpointWatch:
    return CheckpointWatch(run, config, protocol, last_step=last_step, measure=measure)


def rows(run: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run / "checkpoint_metrics.jsonl").read_text().splitlines()
    ]


def test_the_newest_due_checkpoint_is_measured_and_those_between_are_passed_over(tmp_path, caplog):
    measure = Measurement(tmp_path, {})
    watch = watching(tmp_path, measure)
    assert not watch.look()
    save(tmp_path, 4)
    assert not watch.look()  # ten steps at least
    save(tmp_path, 12)
    assert watch.look()
    assert not watch.look()
    save(tmp_path, 18, 24, 30, 36)
    with caplog.at_level(logging.INFO):
        assert watch.look()
    assert (
        "passed over, since evaluating takes longer than training up to the next: step 24"
        in caplog.text
    )
    save(tmp_path, 40)
    assert not watch.look()
    assert measure.measured == [12, 36]
    assert [row["step"] for row in rows(tmp_path)] == [12, 36]
    assert rows(tmp_path)[0]["metrics"]["reconstruction_psnr"]["protocol"] == "sentence"
    assert rows(tmp_path)[0]["settings"] == {"num_images": 8}


def test_the_last_checkpoint_is_measured_in_any_case_and_an_unfinished_one_never(tmp_path):
    measure = Measurement(tmp_path, {})
    watch = watching(tmp_path, measure, last_step=13)
    save(tmp_path, 10)
    (tmp_path / "checkpoints" / "step-000000013").mkdir()
    assert watch.look()
    assert not watch.look()
    artefact.write_manifest(tmp_path / "checkpoints" / "step-000000013", "checkpoint", step=13)
    assert watch.look()
    assert measure.measured == [10, 13]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("psnr", (20.0, 25.0, 22.0), 20), ("fd_effnet", (20.0, 25.0, 12.0), 30)],
)
def test_the_best_is_kept_by_the_direction_of_its_metric(tmp_path, metric, values, best):
    steps = (10, 20, 30)
    measure = Measurement(tmp_path, dict(zip(steps, values, strict=True)))
    config = CheckpointEvaluationConfig(every_steps=1, metric=metric)
    watch = watching(tmp_path, measure, config)
    for step in steps:
        save(tmp_path, step)
        watch.look()
    found = read_best(tmp_path)
    assert found is not None
    assert (found["step"], found["value"]) == (best, dict(zip(steps, values, strict=True))[best])
    assert (best_weights(tmp_path) / "weights").read_text() == str(best)
    # Weights of the others are gone.
    assert len([path for path in (tmp_path / "best").iterdir() if path.is_dir()]) == 1
    assert not list((tmp_path / "checkpoint_evaluation").iterdir())


def test_a_value_that_is_not_finite_is_never_the_best(tmp_path):
    watch = watching(tmp_path, Measurement(tmp_path, {10: None, 20: 3.0, 30: None}))
    save(tmp_path, 10)
    watch.look()
    assert read_best(tmp_path) is None
    with pytest.raises(ArtefactError, match="holds no best checkpoint; train with"):
        best_weights(tmp_path)
    for step in (20, 30):
        save(tmp_path, step)
        watch.look()
    found = read_best(tmp_path)
    assert found is not None
    assert found["step"] == 20
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 30]


def test_the_best_outlives_the_removal_of_its_checkpoint(tmp_path):
    watch = watching(tmp_path, Measurement(tmp_path, {10: 30.0}))
    for step in (10, 20, 30):
        save(tmp_path, step, keep=1)
        watch.look()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000030"]
    assert (best_weights(tmp_path) / "weights").read_text() == "10"


def test_a_run_that_goes_on_measures_nothing_twice_and_knows_its_best(tmp_path):
    save(tmp_path, 10)
    watching(tmp_path, Measurement(tmp_path, {10: 30.0})).look()
    measure = Measurement(tmp_path, {20: 29.0})
    again = watching(tmp_path, measure)
    assert not again.look()
    save(tmp_path, 20)
    assert again.look()
    assert measure.measured == [20]
    assert [row["step"] for row in rows(tmp_path)] == [10, 20]
    found = read_best(tmp_path)
    assert found is not None
    assert found["step"] == 10


def test_numbers_of_another_protocol_are_kept_and_not_compared(tmp_path):
    save(tmp_path, 10)
    watching(tmp_path, Measurement(tmp_path, {10: 30.0})).look()
    other = Protocol(settings={"num_images": 99}, fingerprint="second")
    assert watching(tmp_path, Measurement(tmp_path, {10: 5.0}), protocol=other).look()
    assert [(row["step"], row["protocol"]) for row in rows(tmp_path)] == [
        (10, "first"),
        (10, "second"),
    ]
    found = read_best(tmp_path)
    assert found is not None
    assert (found["value"], found["protocol"]) == (5.0, "second")


def test_a_run_killed_between_the_best_and_its_row_measures_once_more(tmp_path, monkeypatch):
    save(tmp_path, 10)

    def killed(path: Path, values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(artefact, "append_line", killed)
        with pytest.raises(KeyboardInterrupt):
            watching(tmp_path, Measurement(tmp_path, {})).look()
    assert watching(tmp_path, Measurement(tmp_path, {})).look()
    assert [row["step"] for row in rows(tmp_path)] == [10]
    assert (best_weights(tmp_path) / "weights").read_text() == "10"


def test_a_failure_is_one_line_and_the_next_checkpoint_is_measured(tmp_path, caplog):
    measure = Measurement(tmp_path, {10: ArtefactError("no memory")})
    watch = watching(tmp_path, measure)
    save(tmp_path, 10)
    with caplog.at_level(logging.INFO):
        assert watch.look()
    assert [record.getMessage() for record in caplog.records] == [
        "the checkpoint of step 10 is not evaluated: no memory; the training goes on"
    ]
    assert not watch.look()
    save(tmp_path, 20)
    assert watch.look()
    assert [row["step"] for row in rows(tmp_path)] == [20]


def test_three_failures_in_a_row_end_the_evaluations(tmp_path, caplog):
    steps = (10, 20, 30, 40)
    measure = Measurement(tmp_path, dict.fromkeys(steps, RuntimeError("broken")))
    watch = watching(tmp_path, measure)
    for step in steps:
        save(tmp_path, step)
        watch.look()
    assert measure.measured == [10, 20, 30]
    assert caplog.messages[-1].endswith("no more checkpoints are evaluated")


def test_a_checkpoint_that_is_removed_meanwhile_is_no_failure(tmp_path, caplog):
    watch = watching(tmp_path, lambda checkpoint: None)
    save(tmp_path, 10)
    with caplog.at_level(logging.INFO):
        assert watch.look()
    assert caplog.messages == [
        "step-000000010 was removed before it was read, so it is not evaluated"
    ]
    assert not watch.look()


def test_an_interrupted_measurement_is_asked_for_again(tmp_path):
    measure = Measurement(tmp_path, {10: MeasurementInterrupted()})
    watch = watching(tmp_path, measure)
    save(tmp_path, 10)
    with pytest.raises(MeasurementInterrupted):
        watch.look()
    measure.values.clear()
    assert watch.look()
    assert measure.measured == [10, 10]


def test_rows_are_points_of_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    save(tmp_path, 10)
    watching(tmp_path, Measurement(tmp_path, {10: 7.0})).look()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "checkpoints"))
    events.Reload()
    (point,) = events.Scalars("checkpoint/reconstruction_psnr")
    assert (point.step, point.value) == (10, 7.0)
