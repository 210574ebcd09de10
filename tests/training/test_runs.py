"""What a worker does before it trains, where inputs may be away for a while, and after it, where a disk may be full."""

import threading
from types import SimpleNamespace

import pytest
import torch

from glotok_ray.config import override
from glotok_ray.nn.weights import save_weights
from glotok_ray.recipes.tokenizer import quickstart
from glotok_ray.retries import StorageError
from glotok_ray.training.runs import exporting, wait_for_inputs
from glotok_ray.training.worker import LocalWorker


def run_on(folder, minutes):
    names = ("train", "validation", "teacher")
    for name in names:
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text("{}")
    return override(
        quickstart(),
        {
            "data.train_path": str(folder / "train"),
            "data.validation_path": str(folder / "validation"),
            "teacher_path": str(folder / "teacher"),
            "scaling.storage_retry_minutes": minutes,
        },
    )


def test_inputs_that_are_away_are_waited_for(tmp_path, caplog):
    run = run_on(tmp_path, 0.5)
    wait_for_inputs(run)
    assert caplog.text == ""
    away = tmp_path / "away"
    (tmp_path / "validation").rename(away)
    back = threading.Timer(0.5, lambda: away.rename(tmp_path / "validation"))
    back.start()
    wait_for_inputs(run)
    back.join()
    assert f"{tmp_path / 'validation'}: reading it failed" in caplog.text


@pytest.mark.parametrize("name", ["train", "validation", "teacher"])
def test_inputs_that_stay_away_are_named(tmp_path, name):
    run = run_on(tmp_path, 0.0)
    (tmp_path / name).rename(tmp_path / "away")
    with pytest.raises(StorageError, match=f"{name}: reading it failed"):
        wait_for_inputs(run)


def test_an_export_that_fails_says_that_the_training_is_kept(tmp_path):
    plan = SimpleNamespace(folder=tmp_path, last_step=10)
    text = rf"^{tmp_path}: the training is done and kept; its export failed: .*No space left .*: 'x'; make room"
    with pytest.raises(StorageError, match=text), exporting(LocalWorker(), plan):
        raise OSError(28, "No space left on device", "x")
    with pytest.raises(ValueError, match="other"), exporting(LocalWorker(), plan):
        raise ValueError("other")


def test_weights_that_cannot_be_written_name_their_file(tmp_path):
    path = tmp_path / "missing" / "a.safetensors"
    with pytest.raises(OSError, match=rf"^{path}: cannot be written"):
        save_weights(path, {"a": torch.zeros(3)})
