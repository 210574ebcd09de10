"""Checkpoints evaluated beside a training on Ray: the training never waits for it, and never ends with it."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from glotok_ray.config import ExportRun, TokenizerRun, override
from glotok_ray.export import tokenizer as export
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.on_ray import checkpoint_evaluation
from glotok_ray.on_ray.checkpoint_evaluation import evaluating_checkpoints
from glotok_ray.pretrained.tokenizer import load_tokenizer
from glotok_ray.recipes.quickstart import chain
from glotok_ray.stages import shard_images, train_tokenizer
from glotok_ray.storage import artefact
from glotok_ray.training.evaluated_checkpoints import best_weights, read_best
from glotok_ray.training.plan import LOG_FOLDER, RunPlan, run_plan

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SHORT = {
    "teacher_path": "",
    "loss.relation_weight": 0.0,
    "data.num_validation_images": 0,
    "schedule.epochs": 2,
    "schedule.checkpoints_to_keep": 1,
    "scaling.num_workers": 1,
    "scaling.engine": "torch",
    "checkpoint_evaluation.every_steps": 1,
    "checkpoint_evaluation.metric": "psnr",
    "checkpoint_evaluation.num_images": 8,
    "checkpoint_evaluation.feature_size": 32,
}


@pytest.fixture(scope="module")
def tokenizer(ray_cluster, tiny_quickstart, tmp_path_factory) -> TokenizerRun:
    """Ten steps with checkpoints at 5 and 10, on shards that are there."""
    config = chain(tiny_quickstart(tmp_path_factory.mktemp("evaluated")))
    shard_images.run(config.data)
    return override(config.tokenizer, SHORT)


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "checkpoint_metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_training_leaves_rows_and_its_best_checkpoint(tokenizer, tmp_path, caplog):
    run = override(tokenizer, {"output_path": str(tmp_path), "name": "mine"})
    with caplog.at_level(logging.INFO):
        assert train_tokenizer.run(run)["step"] == 10
    folder = tmp_path / "mine"
    found = rows(folder)
    # The one of step 5 may be passed over or removed, the last is always evaluated.
    assert found[-1]["step"] == 10
    assert {row["step"] for row in found} <= {5, 10}
    best = read_best(folder)
    assert best is not None
    values = {row["step"]: row["metrics"]["reconstruction_psnr"]["value"] for row in found}
    assert best["value"] == max(values.values())
    load_tokenizer(best_weights(folder))
    assert f"checkpoint of step 10: reconstruction_psnr = {values[10]}" in caplog.text
    assert not (folder / "checkpoint_evaluation").exists()
    # The run's own manifest holds, and the best can be published.
    assert artefact.read_manifest(folder, "tokenizer")["best_checkpoint"] == best
    export.run(
        ExportRun(
            source_path=str(folder), output_path=str(tmp_path / "published"), checkpoint="best"
        )
    )
    card = (tmp_path / "published" / "README.md").read_text()
    assert f"after {best['step']} steps, the best of its evaluated checkpoints" in card


def prepared(tokenizer: TokenizerRun, folder: Path) -> tuple[TokenizerRun, RunPlan]:
    """A run whose last checkpoint is there, as if it trained."""
    run = override(tokenizer, {"output_path": str(folder), "name": "mine"})
    plan = run_plan(run)
    place = plan.folder / "checkpoints" / f"step-{plan.last_step:09d}"
    place.mkdir(parents=True)
    (plan.folder / LOG_FOLDER).mkdir()
    torch.manual_seed(0)
    GloTokTokenizer(run.model).save_pretrained(place)
    artefact.write_manifest(place, "checkpoint", step=plan.last_step)
    return run, plan


def test_without_room_it_waits_for_the_end_of_the_training(tokenizer, tmp_path, caplog):
    run, plan = prepared(tokenizer, tmp_path)
    evaluation = checkpoint_evaluation._Evaluation(run, plan, 1, {"CPU": 3.0})
    assert not evaluation._has_room()
    assert not evaluation._has_room()
    assert caplog.messages == [
        "checkpoints wait for their evaluation: the cluster has no room for it beside the training (CPU: 4 there, 5 "
        "needed); they are evaluated when it has, at the latest at the end of the training"
    ]
    # Without a heartbeat of its worker, the training has not begun.
    with evaluating_checkpoints(run, plan, 1, {"CPU": 3.0}):
        assert rows(plan.folder) == []
    assert [row["step"] for row in rows(plan.folder)] == [plan.last_step]


def test_an_actor_that_dies_is_told_in_one_line(tokenizer, tmp_path, caplog, monkeypatch):
    run, plan = prepared(tokenizer, tmp_path)

    class Dying:
        def __init__(self, *_: object) -> None:
            pass

        def ready(self) -> bool:
            return True

        def measure(self, checkpoint: Path) -> None:
            os._exit(1)

    monkeypatch.setattr(checkpoint_evaluation, "_CheckpointEvaluator", Dying)
    with caplog.at_level(logging.WARNING), evaluating_checkpoints(run, plan, 1, {"CPU": 1.0}):
        pass
    (line,) = [text for text in caplog.messages if "evaluated" in text]
    assert line.startswith(
        f"the checkpoint of step {plan.last_step} is not evaluated: ActorDiedError"
    )
    assert "\n" not in line
    assert line.endswith("; the training goes on")
    assert "Traceback" in (plan.folder / LOG_FOLDER / "checkpoint_evaluation.txt").read_text()
