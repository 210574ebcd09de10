"""Actors that stay for many passes over the same units: k-means reads the same parts in every iteration.

A pass of `actor_pool.map_shards` starts its actors anew, which takes longer than an iteration. Read next:
glotok_ray/stages/build_teacher.py
"""

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import ray
from ray.exceptions import RayTaskError

from glotok_ray.config.pool import PoolConfig
from glotok_ray.on_ray import cluster
from glotok_ray.on_ray.actor_pool import warn_when_too_small
from glotok_ray.storage import ownership
from glotok_ray.storage.artefact import ArtefactError

logger = logging.getLogger(__name__)

_PATIENCE_S = 60


class PersistentActors:
    """Up to `pool.num_actors` actors of one class; a context, at whose end they go.

    Work begins with the first actor that the cluster can place, and the others join when they can. An actor that
    dies is started again, and its unit is done again, three times at most.
    """

    def __init__(
        self, actor_class: Callable[..., Any], arguments: dict[str, Any], pool: PoolConfig
    ) -> None:
        """`actor_class(**arguments)(unit, shared)` does one unit; everything must pickle."""
        cluster.connect()
        warn_when_too_small(pool, pool.num_actors)
        remote = ray.remote(
            num_cpus=pool.cpus_per_actor,
            num_gpus=1 if pool.use_gpu else 0,
            max_restarts=-1,
            max_task_retries=3,
        )(_PersistentActor)
        self._actors: list[Any] = [
            remote.remote(actor_class, arguments) for _ in range(pool.num_actors)
        ]
        self._starting = {actor.ready.remote(): actor for actor in self._actors}
        self._idle: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def map(self, units: Sequence[Any], shared: Any) -> Iterator[Any]:
        """The results in the units' order; `shared` reaches every node once.

        A ValueError in an actor is raised here as ArtefactError with its message. Raises FolderLostError before a pass,
        when another job has taken over a folder of this process.
        """
        ownership.check_held()
        reference = ray.put(shared)
        waiting = deque(enumerate(units))
        running: dict[Any, tuple[int, Any]] = {}
        finished: dict[int, Any] = {}
        for position in range(len(units)):
            while position not in finished:
                # A few results ahead at most: each may be a large sum.
                while waiting and self._idle and len(finished) <= 2 * len(self._actors):
                    number, unit = waiting.popleft()
                    actor = self._idle.pop()
                    running[actor.work.remote(unit, reference)] = (number, actor)
                done = _first_of([*running, *self._starting], idle=not running)
                if done[0] in self._starting:
                    self._idle.append(self._starting.pop(done[0]))
                    _result(done[0])
                else:
                    number, actor = running.pop(done[0])
                    self._idle.append(actor)
                    finished[number] = _result(done[0])
            yield finished.pop(position)


class _PersistentActor:
    """Ray's side of an actor."""

    def __init__(self, actor_class: Callable[..., Any], arguments: dict[str, Any]) -> None:
        # Constructed at the first unit, so that errors arrive as those of a task, with their message.
        self._make = functools.cache(lambda: actor_class(**arguments))

    def ready(self) -> bool:
        """True, once the actor has started."""
        return True

    def work(self, unit: Any, shared: Any) -> Any:
        """One unit."""
        return self._make()(unit, shared)


def _first_of(references: list[Any], *, idle: bool) -> list[Any]:
    while True:
        done, _ = ray.wait(references, num_returns=1, timeout=_PATIENCE_S)
        if done:
            return done
        if idle:
            logger.warning(
                "no actor could be placed for %d s: the cluster has no free room for pool.cpus_per_actor"
                " or no GPU; see `ray status`, or pass --pool.no-use-gpu",
                _PATIENCE_S,
            )


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ArtefactError(str(error.cause)) from error
        raise
