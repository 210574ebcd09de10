"""A chain of stages with its folders in an object store gives what it gives on a disk; a training goes on.

Ray's pools are replaced by loops of this process: what Ray does is the same for all storage, and benchmarks/s3_drill.py
runs it with Ray, kills and a server that goes away.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import s3_sweep
from benchmarks.s3_drill import CHAIN, TINY, differences
from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray import faults
from glotok_ray.config import QuickstartRun, TokenizerRun, override
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.on_ray import actor_pool, tasks, tune
from glotok_ray.on_ray.tune import TrialResult
from glotok_ray.recipes.quickstart import chain, quickstart
from glotok_ray.stages import (
    evaluate_images,
    feature_extraction,
    image_measurement,
    sweep_tokenizer,
    tokenizer_trials,
)
from glotok_ray.stages import quickstart as whole_quickstart
from glotok_ray.stages.quickstart import Stage, stages
from glotok_ray.storage import artefact, node_cache, ownership
from glotok_ray.storage.places import to_path
from glotok_ray.training.suggestions import Suggestions
from glotok_ray.training.trials import TrialFiles

AWAY_S = 2.0
LOCAL = {
    "data.crops_per_class": 3,
    "data.validation_crops_per_class": 2,
    "data.rows_per_shard": 20,
    "teacher.max_images": 30,
    "teacher.kmeans.num_clusters": 8,
    "evaluation.feature_size": 32,
    "samples.num_images": 10,
}
TRAINING = {
    "launcher": "local",
    "scaling.num_workers": 1,
    "scaling.engine": "torch",
    "scaling.zero_stage": 0,
    "data.num_train_images": 30,
    "schedule.global_batch_size": 10,
    "schedule.micro_batch_size": 10,
    "schedule.epochs": 1,
    "schedule.checkpoint_every_steps": 1,
}


def each(
    units: Sequence[Any],
    actor_class: Callable[..., Any],
    constructor_kwargs: Mapping[str, Any],
    *_: Any,
    **__: Any,
) -> Iterator[Any]:
    if units:
        actor = actor_class(**constructor_kwargs)
        yield from map(actor, units)


@pytest.fixture
def in_this_process(monkeypatch: Any) -> None:
    for module in (actor_pool, feature_extraction, image_measurement):
        monkeypatch.setattr(module, "map_shards", each)
    monkeypatch.setattr(tasks, "map_tasks", lambda function, units, **_: map(function, units))
    monkeypatch.setattr(
        evaluate_images, "run_at_once", lambda function, arguments: [*map(function, arguments)]
    )
    monkeypatch.setattr(sweep_tokenizer, "run_search", in_turn)
    monkeypatch.setattr(
        tune,
        "run_trials",
        lambda names, function, **_: [TrialResult(name, function(name), None) for name in names],
    )
    monkeypatch.setattr(tokenizer_trials, "train_and_measure", measured)
    monkeypatch.setattr(tokenizer_trials, "cosine_distance_of", lambda recipe: 0.1)


def measured(recipe: TokenizerRun, _: Any, *, step: int = 4) -> dict[str, float]:
    """Of no training: the chain has two, and benchmarks/s3_sweep.py all of a search."""
    distance = 50 - 10 * recipe.loss.relation_weight - recipe.loss.relation.num_bins / 100
    return {"psnr": 12.0 + step, "fd_effnet": distance - step + recipe.seed / 7}


def unfinished(config: SweepRun, files: TrialFiles) -> list[str]:
    """All trials of a search without a scheduler that have not ended, each suggested."""
    suggestions = Suggestions(config)
    suggestions.replay(files.records())
    while found := suggestions.ask():
        files.suggested(*found)
    return [record.trial.name for record in files.records() if not record.status]


def in_turn(config: SweepRun, files: TrialFiles, function: Callable[[str], Any], **_: Any) -> None:
    for name in unfinished(config, files):
        list(function(name))
        files.ended(name, "finished")


def interrupted(
    config: SweepRun, files: TrialFiles, function: Callable[[str], Any], **_: Any
) -> None:
    """One trial has ended, the next has one of two evaluations."""
    first, second = unfinished(config, files)
    list(function(first))
    files.ended(first, "finished")
    assert next(iter(function(second)))["step"] == 2
    raise KeyboardInterrupt


def tiny(root: str) -> QuickstartRun:
    changes = {**TINY, **LOCAL, "output_path": root}
    for section in ("tokenizer", "generator"):
        changes |= {f"{section}.{name}": value for name, value in TRAINING.items()}
    return chain(override(quickstart(), {**changes, "tokenizer.data.num_validation_images": 20}))


def run(root: str, name: str, **changes: Any) -> Any:
    (stage,) = (item for item in stages(tiny(root)) if item.name == name)
    found: Stage = stage
    return found.run(override(found.settings, changes) if changes else found.settings)


def search(root: str) -> SweepRun:
    parts = tiny(root)
    changes: dict[str, Any] = {
        "output_path": f"{root}/{s3_sweep.SWEEP}",
        # Of three steps an epoch, as many as the search has.
        "tokenizer": override(
            parts.tokenizer, {"data.num_validation_images": 0, "schedule.epochs": 2}
        ),
        "evaluation.data_path": parts.evaluation.data_path,
    }
    return override(s3_sweep.search(), changes)


@pytest.mark.slow
def test_a_chain_of_stages_gives_what_it_gives_on_a_local_disk(
    in_this_process: None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    with s3_server() as server:
        for root in (str(tmp_path / "local"), f"s3://{BUCKET}/chain"):
            with ownership.holding():
                for name in CHAIN:
                    if name == "tokenizer":
                        run(root, name, **{"schedule.stop_after_steps": 1})
                        manifest = artefact.read_json(to_path(root) / name / "manifest.json")
                        assert manifest["step"] == 1
                        # What ends it as it goes on leaves no manifest of files that have changed.
                        with monkeypatch.context() as patch:
                            patch.setenv(faults.VARIABLE, "full:unit:step=0")
                            with pytest.raises(OSError, match="No space left"):
                                run(root, name)
                        if root.startswith("s3"):
                            server.stop()
                            threading.Timer(AWAY_S, server.start).start()
                    run(root, name)
            with monkeypatch.context() as patch:
                patch.setattr(sweep_tokenizer, "run_search", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    sweep_tokenizer.run(search(root))
            assert sweep_tokenizer.run(search(root))["failed"] == {}
        local, remote = tmp_path / "local", to_path(f"s3://{BUCKET}/chain")
        wrong, count = differences(local, remote)
        wrong += s3_sweep.differences(local, remote)
    assert wrong == []
    assert count > 30


@pytest.mark.slow
def test_the_whole_quickstart_and_its_page_lie_in_a_store(
    in_this_process: None, tiny_quickstart: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    with s3_server():
        root = f"s3://{BUCKET}/quickstart"
        changes = {**LOCAL, "far_samples.num_images": 10}
        for section in ("tokenizer", "generator", "far"):
            changes |= {f"{section}.{name}": value for name, value in TRAINING.items()}
        config = override(tiny_quickstart(root), changes)
        answer = whole_quickstart.run(config)
        assert [record["status"] for record in answer["stages"]] == ["made"] * 12
        assert answer["report"] == f"{root}/report.html"
        assert "FAR" in (to_path(root) / "report.html").read_text()
        assert answer["twin_relation"] is not None
        again = whole_quickstart.run(config)
        assert [record["status"] for record in again["stages"]] == ["recognised"] * 12
        assert again["metrics"] == answer["metrics"]
        # The times are those of when it was made.
        times = ("stage", "seconds", "began_unix_s")
        assert [[record[name] for name in times] for record in again["stages"]] == [
            [pytest.approx(record[name], abs=0.1) for name in times] for record in answer["stages"]
        ]
