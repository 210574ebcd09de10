"""What a worker does before it trains: inputs that the launcher has seen may be away for a while."""

import threading

import pytest

from glotok_ray.config import override
from glotok_ray.recipes.tokenizer import quickstart
from glotok_ray.retries import StorageError
from glotok_ray.training.runs import wait_for_inputs


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
