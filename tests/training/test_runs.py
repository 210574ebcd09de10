"""What a run does before it trains, where inputs may be away for a while, and after it, where a disk may be full."""

import json
import threading
from types import SimpleNamespace

import pytest
import torch

from glotok_ray.config import override
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import Row, write_dataset, write_shard
from glotok_ray.recipes import encode_images, evaluate_images, train_tokenizer
from glotok_ray.recipes.train_tokenizer import quickstart
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError
from glotok_ray.storage.weights import save_weights
from glotok_ray.training.plan import run_plan
from glotok_ray.training.present_inputs import check_present_inputs
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


def training_crops(run):
    return crops_text(run_plan(run).dataset)


def dataset(folder, form, image_size):
    folder.mkdir()
    shard = write_shard(folder / "part-00000.parquet", [Row("a", b"", 0)])
    write_dataset(
        folder, classes=["a"], form=form, image_size=image_size, shards=[shard], details={}
    )
    return str(folder)


def test_runs_say_what_their_pictures_are_and_refuse_reduced_ones_on_request(tmp_path):
    originals = dataset(tmp_path / "originals", "original", 0)
    reduced = dataset(tmp_path / "reduced", "reduced", 64)
    one = {"data.num_train_images": 1, "schedule.global_batch_size": 1, "scaling.num_workers": 1}
    run = override(quickstart(), {"data.train_path": originals, "data.validation_path": "", **one})
    strict = {"data.adm_protocol": True}
    assert training_crops(override(run, strict)) == "ADM's crop of the original images"
    held_out = override(run, {"data.validation_path": reduced})
    assert training_crops(held_out) == "ADM's crop of the original images"
    message = r"data\.adm_protocol = True: .*reduced holds .*--data\.no-adm-protocol"
    with pytest.raises(ArtefactError, match=message):
        check_present_inputs(override(held_out, strict))
    run = override(run, {"data.train_path": reduced})
    assert "short side of 64 to 80 pixels before, which is not ADM's" in training_crops(run)
    with pytest.raises(ArtefactError, match=message):
        check_present_inputs(override(run, strict))


def test_full_size_recipes_ask_for_adm_s_protocol():
    for name, make in train_tokenizer.RECIPES.items():
        full_size = make().data.train_path == "data/imagenet/train"
        assert make().data.adm_protocol == full_size, name
    for recipes in (encode_images.RECIPES, evaluate_images.RECIPES):
        for name, make in recipes.items():
            assert make().adm_protocol == make().data_path.startswith("data/imagenet"), name


def test_a_run_without_all_pictures_says_how_many_were_unreadable(tmp_path):
    folder = tmp_path / "train"
    dataset(folder, "original", 0)
    facts = json.loads((folder / "dataset.json").read_text())
    facts["unreadable"] = [{"file": "b", "reason": "truncated"}]
    (folder / "dataset.json").write_text(json.dumps(facts))
    run = override(quickstart(), {"data.train_path": str(folder), "data.num_train_images": 2})
    with pytest.raises(
        ArtefactError,
        match=r"= 2: .*train holds 1 images \(1 files of both splits could not be read",
    ):
        run_plan(run)


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
