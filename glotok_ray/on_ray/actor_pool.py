"""Batch jobs: units of work through a pool of Ray Data actors, results back in the units' order.

Neither the results nor their order depend on how many actors share the work.
Read next: glotok_ray/stages/encode_images.py
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from glotok_ray import faults
from glotok_ray.config.pool import PoolConfig
from glotok_ray.on_ray import cluster
from glotok_ray.progress import ProgressLine
from glotok_ray.storage import ownership
from glotok_ray.storage.artefact import ArtefactError

logger = logging.getLogger(__name__)

UnitWorker = Callable[[Any], Any]
# What a damaged unit makes libraries raise.
_OF_A_UNIT = (ValueError, LookupError, ArithmeticError, OSError)


def map_shards(
    units: Sequence[Any],
    actor_class: Callable[..., UnitWorker],
    constructor_kwargs: Mapping[str, Any],
    pool: PoolConfig,
    *,
    stage: str,
    sizes: Sequence[int],
    on_failure: Callable[[Any, str], None] | None = None,
) -> Iterator[Any]:
    """Yield `actor_class(**constructor_kwargs)(unit)` for every unit, in order.

    An actor is constructed once and takes one unit after another. `sizes` are the images per unit,
    for the progress line of `stage`. Units, arguments and results must pickle. A ValueError inside
    an actor is raised here as ArtefactError with its own message; the actor logs where it arose. With `on_failure` the
    units that fail of themselves (not for want of storage or memory) are handed to it with the reason, and the others
    are done all the same. Raises FolderLostError, before a unit is handed on, when another job has taken over a folder.
    """
    faults.boundary("unit", 0)
    if not units:
        return
    cluster.connect()
    num_actors = min(pool.num_actors, len(units))
    warn_when_too_small(pool, num_actors)
    # Pickled by us, so that Ray Data sees bytes and guesses no column types.
    items = [{"unit": pickle.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_kwargs={
            "actor_class": actor_class,
            "arguments": dict(constructor_kwargs),
            "pool": pool,
            "caught": _OF_A_UNIT if on_failure else (ValueError,),
        },
        batch_size=1,
        batch_format="numpy",
        # One actor is enough to begin, so a cluster that is smaller or still growing works too.
        compute=ActorPoolStrategy(min_size=1, max_size=num_actors, initial_size=num_actors),
        num_cpus=pool.cpus_per_actor,
        num_gpus=1 if pool.use_gpu else None,
    )
    dataset.context.execution_options.preserve_order = True
    progress, done = ProgressLine(stage, sum(sizes)), 0
    progress.update(0)
    for number, (row, size) in enumerate(zip(dataset.iter_rows(), sizes, strict=True), start=1):
        ownership.check_held()
        done += size
        progress.update(done)
        if not row["error"]:
            yield pickle.loads(row["result"])
        elif on_failure is None or not row["is_units"]:
            raise ArtefactError(row["error"])
        else:
            on_failure(units[number - 1], row["error"])
        faults.boundary("unit", number)


class _Actor:
    """Ray Data's side of an actor; it constructs at the first unit, so errors travel as results."""

    def __init__(
        self,
        actor_class: Callable[..., UnitWorker],
        arguments: dict[str, Any],
        pool: PoolConfig,
        caught: tuple[type[Exception], ...],
    ) -> None:
        self._actor_class, self._arguments, self._caught = actor_class, arguments, caught
        self._work: UnitWorker | None = None
        if pool.threads_per_actor:
            torch.set_num_threads(pool.threads_per_actor)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        try:
            if self._work is None:
                self._work = self._actor_class(**self._arguments)
        except ValueError as error:
            return self._failure(error, is_units=False)
        try:
            result = self._work(pickle.loads(batch["unit"][0]))
        except self._caught as error:
            return self._failure(error, is_units=True)
        return {"result": [pickle.dumps(result)], "error": [""], "is_units": [False]}

    def _failure(self, error: Exception, *, is_units: bool) -> dict[str, list[Any]]:
        logger.error("%s: a unit failed", self._actor_class.__name__, exc_info=error)
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return {"result": [b""], "error": [text], "is_units": [is_units]}


def warn_when_too_small(pool: PoolConfig, num_actors: int) -> None:
    """Warn when the cluster has no room for all actors now."""
    found = ray.cluster_resources()
    fitting = found.get("CPU", 0) / pool.cpus_per_actor if pool.cpus_per_actor else float("inf")
    if pool.use_gpu:
        fitting = min(fitting, found.get("GPU", 0))
    if fitting < num_actors:
        logger.warning(
            "pool.num_actors = %d: the cluster has room for %d now (%.0f logical CPUs, %.0f GPUs); "
            "the others wait for it to grow. If it cannot, lower pool.num_actors or "
            "pool.cpus_per_actor, or pass --pool.no-use-gpu",
            num_actors,
            int(fitting),
            found.get("CPU", 0),
            found.get("GPU", 0),
        )
