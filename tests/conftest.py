"""The clusters of the Ray tests, each started once: a private one in this process, and one that is started by hand."""

from collections.abc import Iterator

import pytest
import ray

from benchmarks.head_node import HeadNode, started_head_node
from glotok_ray.on_ray import cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private cluster with 4 logical CPUs, whatever the machine has."""
    cluster.connect(logical_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def head_node() -> Iterator[HeadNode]:
    """A token-protected cluster as the README starts one by hand."""
    with started_head_node() as node:
        yield node
