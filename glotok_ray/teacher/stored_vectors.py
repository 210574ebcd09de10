"""Prepared vectors whose features lie in parts on disk: read into memory, or added up part by part by workers.

Read next: glotok_ray/teacher/partial_sums.py
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from glotok_ray.config.pool import PoolConfig
from glotok_ray.devices import chosen_device
from glotok_ray.teacher import partial_sums, preparation
from glotok_ray.teacher.feature_parts import Part, read_vectors
from glotok_ray.teacher.partial_sums import InMemory, PartialSums
from glotok_ray.teacher.preparation import Moments, Preparation

# Parts are summed in this many groups at most, whatever the number of actors: the same sums in memory and over the
# pool, and at most so many partial sums on their way at once.
_GROUPS = 64


class PartTask(NamedTuple):
    """What an actor does with a group of parts: add up moments or partial sums, or pick rows."""

    parts: Sequence[Part]
    rows: Sequence[Int[np.ndarray, " m"]] | None = None
    """Rows to pick from each part."""


class Given(NamedTuple):
    """What all tasks of a pass share."""

    prepare: Preparation | None = None
    """Without it, moments are added up."""
    centroids: Float[np.ndarray, "clusters width"] | None = None


class Workers(Protocol):
    """Whatever does tasks and gives the results in the tasks' order, such as actors of a cluster."""

    def map(self, units: Sequence[PartTask], shared: Given) -> Iterable[Any]:
        """The result of each task."""
        ...


class PartActor:
    """Reads parts of features, prepares their vectors on the way, and adds them up."""

    def __init__(self, pool: PoolConfig, *, second_moments: bool, spherical: bool) -> None:
        self._second_moments, self._spherical = second_moments, spherical
        self._device = chosen_device(use_gpu=pool.use_gpu)
        if pool.threads_per_actor:
            import faiss

            torch.set_num_threads(pool.threads_per_actor)
            faiss.omp_set_num_threads(pool.threads_per_actor)

    def __call__(self, task: PartTask, given: Given) -> Any:
        """Moments, rows or partial sums of the parts, in their order."""
        prepare, centroids = given.prepare, given.centroids
        if prepare is None:
            return moments_of(task.parts, second=self._second_moments)
        if task.rows is not None:
            picked = zip(task.parts, task.rows, strict=True)
            # Rows of the whole product: a product of few rows rounds differently.
            return np.concatenate([prepare(read_vectors(part))[rows] for part, rows in picked])
        assert centroids is not None
        return preparation.add_up(
            partial_sums.partial_sums(
                prepare(read_vectors(part)),
                centroids,
                spherical=self._spherical,
                device=self._device,
            )
            for part in task.parts
        )


class OnDisk:
    """Prepared vectors that stay in their parts: workers read them anew in every pass."""

    def __init__(
        self, groups: Sequence[Sequence[Part]], prepare: Preparation, workers: Workers
    ) -> None:
        self._groups, self._prepare, self._workers = groups, prepare, workers
        self.count = sum(part.count for group in groups for part in group)

    def rows(self, indices: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m width"]:
        """The vectors at these ascending positions, from the parts that hold them."""
        tasks, first = [], 0
        for group in self._groups:
            rows = []
            for part in group:
                rows.append(indices[(indices >= first) & (indices < first + part.count)] - first)
                first += part.count
            tasks.append(PartTask(group, rows))
        return np.concatenate(list(self._workers.map(tasks, Given(self._prepare))))

    def partial_sums(self, centroids: Float[np.ndarray, "clusters width"]) -> PartialSums:
        """The sums of the groups, added in their order as they come back."""
        tasks = [PartTask(group) for group in self._groups]
        return preparation.add_up(self._workers.map(tasks, Given(self._prepare, centroids)))


def moments_of(parts: Sequence[Part], *, second: bool) -> Moments:
    """Moments of some parts, in their order."""
    return preparation.add_up(
        preparation.moments(read_vectors(part), second=second) for part in parts
    )


def groups_of(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts in order in at most `_GROUPS` groups, a function of the parts alone."""
    number = min(_GROUPS, len(parts))
    edges = [len(parts) * index // number for index in range(number + 1)]
    return [list(parts[a:b]) for a, b in itertools.pairwise(edges)]


def load(groups: list[list[Part]], prepare: Preparation) -> InMemory:
    """One array, filled part by part: raw features are never held beside it, but for one part."""
    counts = [sum(part.count for part in group) for group in groups]
    array, start = None, 0
    for group in groups:
        for part in group:
            prepared = prepare(read_vectors(part))
            if array is None:
                array = np.empty((sum(counts), prepared.shape[1]), np.float32)
            array[start : start + part.count] = prepared
            start += part.count
    assert array is not None
    sizes = [[part.count for part in group] for group in groups]
    return InMemory(array, spherical=prepare.spherical, groups=sizes)
