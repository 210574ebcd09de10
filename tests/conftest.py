"""What the Ray tests share: clusters, each started once, and the quickstart at its very smallest, run once."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from glotok_ray.config import QuickstartRun, override
from glotok_ray.recipes.quickstart import chain, quickstart

if TYPE_CHECKING:
    from benchmarks.head_node import HeadNode

# One thread per process, before torch is there to read it: tensors of tests are small, and OpenMP's threads that wait
# for each other keep whole cores busy. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = {
    "data.image_size": 32,
    "data.crops_per_class": 12,
    "data.validation_crops_per_class": 4,
    "data.rows_per_shard": 50,
    "teacher.network.input_size": 64,
    "teacher.kmeans.num_clusters": 24,
    "teacher.max_images": 60,
    "tokenizer.model.autoencoder.image_size": 32,
    "tokenizer.model.autoencoder.base_channels": 8,
    "tokenizer.model.autoencoder.channel_multipliers": (1, 2, 2),
    "tokenizer.model.autoencoder.norm_groups": 4,
    "tokenizer.model.autoencoder.latent_channels": 16,
    "tokenizer.model.adapter.num_heads": 2,
    "tokenizer.model.codebooks.1.size": 32,
    "tokenizer.model.codebooks.0.size": 48,
    "tokenizer.model.residual.width": 16,
    "tokenizer.model.residual.num_heads": 2,
    "tokenizer.loss.adversarial_start_step": 4,
    "tokenizer.data.num_train_images": 120,
    "tokenizer.data.num_validation_images": 16,
    "tokenizer.schedule.global_batch_size": 24,
    "tokenizer.schedule.micro_batch_size": 12,
    "tokenizer.schedule.epochs": 4,
    "tokenizer.schedule.log_every_steps": 1,
    "tokenizer.schedule.checkpoints_to_keep": 9,
    "generator.model.grid_size": 8,
    "generator.model.cell_size": 4,
    "generator.model.width": 32,
    "generator.model.depth": 2,
    "generator.model.num_heads": 2,
    "generator.data.num_train_images": 120,
    "generator.schedule.global_batch_size": 24,
    "generator.schedule.micro_batch_size": 12,
    "generator.schedule.epochs": 2,
    "generator.schedule.log_every_steps": 1,
    # FAR's codes are read in the workers, and nothing of it is divided, as by default.
    "generator.scaling.decode_on": "ingest",
    "generator.scaling.zero_stage": 2,
    "tokenizer.scaling.zero_stage": 2,
    "samples.num_images": 20,
    "samples.sampler.num_steps": 3,
    "far.model.grid_size": 8,
    "far.model.codebooks.0.size": 48,
    "far.model.codebooks.1.size": 32,
    "far.model.width": 32,
    "far.model.depth": 2,
    "far.model.num_heads": 2,
    "far.data.num_train_images": 120,
    "far.schedule.global_batch_size": 24,
    "far.schedule.micro_batch_size": 12,
    "far.schedule.epochs": 2,
    "far.schedule.log_every_steps": 1,
    "far_samples.num_images": 20,
    "far_samples.sampler.temperature": 0.9,
    "far_evaluation.feature_size": 64,
    "evaluation.feature_size": 64,
    "evaluation.uniformity_repeats": 1,
    # As of each training alone.
    "tokenizer.scaling.num_workers": 2,
    "generator.scaling.num_workers": 2,
    "far.scaling.num_workers": 2,
}
SIDE_BY_SIDE = {f"{name}.scaling.num_workers": 1 for name in ("tokenizer", "generator", "far")}


RAY_FIXTURES = {"ray_cluster", "head_node", "finished"}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses a cluster of this file as `ray`; leave GPU tests out unless `-m` speaks of them."""
    for item in items:
        if RAY_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")
    if "gpu" not in config.option.markexpr:
        chosen = [item for item in items if not item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


def _ray_runs() -> bool:
    """Whether this process is connected to Ray; imports nothing for the answer."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@pytest.fixture(autouse=True)
def _ray_is_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that starts Ray and lacks the mark `ray` would be among the fast ones: it fails."""
    before = _ray_runs()
    yield
    marked = before or request.node.get_closest_marker("ray")
    assert marked or not _ray_runs(), "this test starts Ray: mark it with @pytest.mark.ray"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private cluster with 4 logical CPUs, whatever the machine has, on which sweeps run too."""
    # Imported here: tests that need no Ray must not pay for it.
    import ray

    from glotok_ray.on_ray import cluster

    cluster.connect(logical_cpus=4, state_api=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def head_node() -> "Iterator[HeadNode]":
    """A token-protected cluster as the README starts one by hand."""
    from benchmarks.head_node import started_head_node

    with started_head_node() as node:
        yield node


@pytest.fixture(scope="session")
def tiny_quickstart() -> Callable[[Path], QuickstartRun]:
    """All stages on 120 crops of 32 pixels, under the given folder."""
    return lambda folder: override(quickstart(), {**TINY, "output_path": str(folder)})


@pytest.fixture(scope="session")
def finished(
    ray_cluster: None,
    tiny_quickstart: Callable[[Path], QuickstartRun],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[QuickstartRun, dict[str, Any]]:
    """One whole tiny pipeline, its trainings side by side as the quickstart's: its chained config and its answer. What
    tests add to it lies elsewhere.
    """
    from glotok_ray.stages import quickstart as stage

    config = chain(tiny_quickstart(tmp_path_factory.mktemp("pipeline")))
    config = override(config, SIDE_BY_SIDE)
    return config, stage.run(config)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of Inception-v3, calibrated, in the layout of the published file."""
    from benchmarks.calibrated_inception import write_calibrated_inception

    return write_calibrated_inception(tmp_path_factory.mktemp("inception") / "inception.pth")
