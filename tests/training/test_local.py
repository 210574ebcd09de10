"""A training in one plain process: the same run folder without Ray, its trace, and how it ends on a bad loss."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_tokenizer import MODEL

from glotok_ray.config import TokenizerRun, override
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.recipes.train_generator import xar_b
from glotok_ray.recipes.train_tokenizer import quickstart
from glotok_ray.stages import train_tokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training import local
from glotok_ray.training.plan import RunPlan
from glotok_ray.training.rows_seen import BAD_ROWS_FOLDER
from glotok_ray.training.shown_progress import describe_metrics


@pytest.fixture
def config(tmp_path: Path) -> TokenizerRun:
    """Eight steps of a tiny tokenizer on 16 images."""
    folder, draw = tmp_path / "train", np.random.default_rng(0)
    folder.mkdir()
    images = draw.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    rows = [Row(str(key), encode_png(image), 0) for key, image in enumerate(images)]
    shard = write_shard(folder / "part-00000.parquet", rows)
    write_dataset(folder, classes=["a"], form="original", image_size=0, shards=[shard], details={})
    artefact.write_manifest(folder, "shards", "of these images")
    return override(
        quickstart(),
        {
            "output_path": str(tmp_path / "runs"),
            "launcher": "local",
            "model": MODEL,
            "discriminator.base_channels": 8,
            "loss.adversarial_start_step": 6,
            "loss.relation_weight": 0.0,
            "teacher_path": "",
            "data.train_path": str(folder),
            "data.validation_path": "",
            "data.num_train_images": 16,
            "schedule.global_batch_size": 4,
            "schedule.micro_batch_size": 2,
            "schedule.epochs": 2,
            "schedule.log_every_steps": 1,
            "schedule.profile_steps": 2,
            "scaling.num_workers": 1,
            "scaling.engine": "torch",
            "scaling.threads_per_worker": 1,
        },
    )


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_in_one_process_tells_its_times_and_leaves_a_trace(config, monkeypatch) -> None:
    def no_cluster(*_: object, **__: object) -> None:
        raise AssertionError("Ray was asked for a cluster")

    monkeypatch.setattr("glotok_ray.on_ray.cluster.connect", no_cluster)
    manifest = train_tokenizer.run(config)
    folder = Path(config.output_path) / config.name
    assert manifest["step"] == 8
    told = [line for line in lines(folder) if "train/total" in line]
    assert [line["step"] for line in told] == list(range(1, 9))
    assert all(line["train/gradient_norm"] > 0 for line in told)
    with_game = [line["step"] for line in told if "train/discriminator_gradient_norm" in line]
    assert with_game == [7, 8]
    timed = [line["step"] for line in told if "time/step_median_s" in line]
    assert timed == [6, 7, 8]
    assert all(line["time/step_p95_s"] >= line["time/step_median_s"] for line in told[5:])
    assert not any("time/mfu" in line for line in told)
    assert [line["step"] for line in told if "time/first_batch_s" in line] == [1]
    assert told[0]["time/first_batch_s"] > 0
    with gzip.open(folder / "profile" / "trace.json.gz") as stream:
        events = json.load(stream)["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"train step 5", "train step 6", "data", "metrics"} <= names
    assert not {"train step 4", "train step 7"} & names
    assert not [name for name in manifest["files"] if name.startswith("profile")]
    assert artefact.read_manifest(folder, "tokenizer", every_byte=True)["step"] == 8


def test_a_loss_that_is_not_finite_ends_it_as_under_ray(config) -> None:
    broken = override(config, {"loss.reconstruction_weight": 1e39, "schedule.profile_steps": 0})
    with pytest.raises(ArtefactError, match=r"step 0: total not finite.*--initial-path"):
        train_tokenizer.run(broken)


def test_a_run_that_is_past_its_end_is_refused_and_left_as_it_is(config, monkeypatch) -> None:
    config = override(config, {"schedule.profile_steps": 0})
    folder = Path(config.output_path) / config.name
    fit = local.fit

    def killed(run: TokenizerRun, plan: RunPlan) -> None:
        fit(run, plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.run(override(config, {"schedule.stop_after_steps": 5}))
    monkeypatch.setattr(local, "fit", fit)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ArtefactError, match=r"step-000000005: is at step 5 already, .* at step 3 "):
        train_tokenizer.run(override(config, {"schedule.stop_after_steps": 3}))
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # At its very step there is nothing left but the export.
    assert train_tokenizer.run(override(config, {"schedule.stop_after_steps": 5}))["step"] == 5
    # Nor is a finished one told as of a step that it has left behind.
    with pytest.raises(ArtefactError, match=r"tokenizer.*: is at step 5 already, .* at step 3 "):
        train_tokenizer.run(override(config, {"schedule.stop_after_steps": 3}))


def test_a_finished_run_of_another_precision_or_engine_is_refused(config) -> None:
    config = override(config, {"schedule.profile_steps": 0, "schedule.stop_after_steps": 1})
    folder = Path(config.output_path) / config.name
    made = train_tokenizer.run(config)
    for changes, told in (
        (
            {"scaling.precision": "bf16_autocast"},
            "precision = fp32, and this run has bf16_autocast",
        ),
        ({"scaling.engine": "deepspeed"}, "engine = torch, and this run has deepspeed"),
    ):
        with pytest.raises(ArtefactError, match=rf"{folder}: .* scaling\.{told}; .*--name"):
            train_tokenizer.run(override(config, changes))
    free = override(config, {"scaling.zero_stage": 3, "scaling.max_failures": 9})
    assert train_tokenizer.run(free) == made
    # A folder whose config tells nothing of it, as an older version may have left it.
    stored = artefact.read_json(folder / "config.json")
    del stored["scaling"]
    artefact.write_json(folder / "config.json", stored)
    artefact.write_manifest(folder, "tokenizer", made["fingerprint"], step=1)
    other = override(config, {"scaling.precision": "bf16_autocast"})
    assert train_tokenizer.run(other)["step"] == 1


def test_broken_rows_of_steps_that_are_done_stop_a_start_before_it_trains(config) -> None:
    config = override(config, {"schedule.profile_steps": 0, "schedule.stop_after_steps": 1})
    folder = Path(config.output_path) / config.name
    train_tokenizer.run(config)
    artefact.append_line(
        folder / BAD_ROWS_FOLDER / "rank-0000.jsonl", {"step": 0, "key": "3", "reason": "torn"}
    )
    config = override(config, {"schedule.stop_after_steps": 2})
    with pytest.raises(ArtefactError, match=r"data\.max_bad_rows = 0: 1 different rows .*: torn"):
        train_tokenizer.run(config)
    assert artefact.read_manifest(folder, "tokenizer")["step"] == 1
    train_tokenizer.run(override(config, {"data.max_bad_rows": 1}))
    # In every line, as without a start in between.
    assert [line["data/bad_rows"] for line in lines(folder) if "data/bad_rows" in line] == [1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named(config) -> None:
    with pytest.raises(ValueError, match=r"scaling\.use_gpu = True: this process sees no GPU"):
        train_tokenizer.run(override(config, {"scaling.use_gpu": True}))


def test_more_than_one_worker_needs_ray() -> None:
    for recipe in (quickstart, xar_b):
        with pytest.raises(ValueError, match=r"scaling\.num_workers = 4: must be 1 with launcher"):
            override(recipe(), {"scaling.num_workers": 4, "launcher": "local"})


def test_the_progress_line_has_the_main_metrics() -> None:
    metrics = {
        "step": 7,
        "train/total": 0.51234,
        "train/gradient_norm": 1.2345,
        "time/step_median_s": 0.314,
        "time/data_share": 0.042,
        "time/mfu": 0.387,
        "data/bad_rows": 3,
        "data/cache_hit_share": 0.912,
        "data/store_peak_gib": 1.26,
        "data/spilled_gib": 0.5,
        "time/first_batch_s": 4.321,
        "memory/peak_gib": 7.25,
        "run/restarts": 2,
        "eval/psnr": 21.337,
    }
    assert describe_metrics(metrics) == (
        "loss 0.5123  MFU 39%  7.25 GiB  restarts 2  step 0.314 s  data 4%  gradient 1.23  bad rows 3  cache 91%  "
        "spilled 0.5 GiB  store 1.3 GiB  first batch 4.32 s  PSNR 21.34"
    )


def test_one_process_evaluates_no_checkpoint_and_says_so(
    config: TokenizerRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = override(
        config,
        {
            "checkpoint_evaluation.every_steps": 1,
            "checkpoint_evaluation.data_path": config.data.train_path,
        },
    )
    trained = []
    monkeypatch.setattr(local, "fit", lambda run, plan: trained.append(run.name))
    # Nothing is exported then, so the manifest is that of an empty run.
    train_tokenizer.run(run)
    assert trained == [run.name]
    assert "checkpoints are not evaluated: launcher = 'local'" in caplog.text
