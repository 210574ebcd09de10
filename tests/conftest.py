"""One local Ray cluster for all Ray tests: starting one takes seconds."""

from collections.abc import Iterator

import pytest
import ray

from glotok_ray.on_ray import cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private cluster with 4 logical CPUs, whatever the machine has."""
    cluster.connect(logical_cpus=4)
    yield
    ray.shutdown()
