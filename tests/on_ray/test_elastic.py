"""How many workers an elastic training takes, and when it changes; no cluster."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision

from glotok_ray.config import ScalingConfig
from glotok_ray.data.shard_plan import Division, ShardPlan, ShardRows
from glotok_ray.on_ray import elastic
from glotok_ray.on_ray.elastic import DividingPolicy, allowed_workers, fitting
from glotok_ray.on_ray.windows import Feed, IngestActor
from glotok_ray.storage import artefact
from glotok_ray.training.checkpoint import checkpoint_path
from glotok_ray.training.stalls import Beat, find_late_ranks

SCALING = ScalingConfig(num_workers=8, min_workers=4, max_workers=12)
NODES = {f"node-{number}": {"CPU": 2.0} for number in range(5)}


def test_only_numbers_that_divide_the_batch_are_taken() -> None:
    allowed = allowed_workers(SCALING, 240)
    assert allowed == (4, 5, 6, 8, 10, 12)
    assert [fitting(count, allowed) for count in (3, 4, 7, 9, 11, 30)] == [0, 4, 6, 8, 10, 12]


def policy(folder: Path) -> DividingPolicy:
    found = ray.train.ScalingConfig(
        num_workers=(2, 5), resources_per_worker={"CPU": 2}, elastic_resize_monitor_interval_s=0
    )
    return DividingPolicy(found, (2, 3, 5), folder)


def test_nodes_that_are_drained_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: set[str] = set()
    monkeypatch.setattr(elastic, "_draining_nodes", lambda: gone)
    found = policy(tmp_path)
    assert found._count_possible_workers(NODES) == 5
    gone.add("node-1")
    assert found._count_possible_workers(NODES) == 3
    gone.update(NODES)
    assert found._count_possible_workers(NODES) == 0


def test_a_running_group_grows_only_behind_a_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = policy(tmp_path)
    monkeypatch.setattr(elastic, "_draining_nodes", set)
    monkeypatch.setattr(found, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(found, "_get_reserved_resources", lambda: NODES)
    running = SimpleNamespace(start_time=0.0, num_workers=3)

    def look() -> object:
        return found.make_decision_for_running_worker_group(running, None)

    def save(step: int) -> None:
        place = checkpoint_path(tmp_path, step)
        place.mkdir()
        (place / "part-0.pt").write_bytes(b"state")
        artefact.write_manifest(place, "checkpoint")

    save(5)
    assert [type(look()) for _ in range(3)] == [NoopDecision] * 3
    save(9)
    decision = look()
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 5
    running.num_workers = 5
    assert type(look()) is NoopDecision


def test_a_group_that_is_started_again_gets_its_rows_anew_and_divided_among_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []

    def open_window(ingest: IngestActor, first_step: int) -> list[str]:
        workers = ingest._feed.division.num_workers
        opened.append((first_step, workers))
        return [f"{first_step}/{worker}/{workers}" for worker in range(workers)]

    monkeypatch.setattr(IngestActor, "_open", open_window)
    three, two = Division(3, 2, 24), Division(2, 3, 24)
    plan = ShardPlan((ShardRows("a", 24),), seed=0, batch_size=6, steps_per_epoch=4, open_shards=1)
    ingest = IngestActor(Feed(plan, three, last_step=8), lambda unit: {}, {})
    assert [ingest.window(4, worker, 11, three) for worker in (2, 0)] == ["4/2/3", "4/0/3"]
    # One of the first group had not asked yet when it was ended.
    assert [ingest.window(4, worker, 12, two) for worker in (0, 1)] == ["4/0/2", "4/1/2"]
    assert opened == [(4, 3), (4, 2)]


def test_ranks_of_a_larger_group_before_do_not_stall_a_smaller_one() -> None:
    def beat(rank: int, beats: int, changes: int) -> Beat:
        return Beat(
            rank=rank, host="h", pid=1, attempt=1, beats=beats, step=3, phase="data",
            changes=changes, phase_s=1.0, changed_unix_s=0.0,
        )  # fmt: skip

    before = {0: beat(0, 1, 9), 1: beat(1, 4, 2)}
    after = {0: beat(0, 2, 9), 1: beat(1, 4, 2)}
    assert find_late_ranks(before, after, world_size=1, waited_s=60).ranks == [0]
