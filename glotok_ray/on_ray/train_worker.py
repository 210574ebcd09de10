"""What every rank of a training under Ray Train runs: its rows, its heartbeat, its warnings, and how its errors end.

It knows nothing of the driver, whose imports a worker must not pay for. Read next: glotok_ray/training/tokenizer_run.py
"""

import logging
import os
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from glotok_ray.config.overrides import from_dict, override
from glotok_ray.config.runs import FARRun, RQRun, TokenizerRun, VARRun, XARRun
from glotok_ray.config.training import ScalingConfig
from glotok_ray.on_ray.data import worker_batches
from glotok_ray.on_ray.ray_worker import RayWorker
from glotok_ray.on_ray.store_watch import StoreWatch
from glotok_ray.on_ray.windows import Feed
from glotok_ray.storage.node_cache import cache_facts
from glotok_ray.storage.object_streams import ObjectLog
from glotok_ray.storage.places import is_remote
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.decode_place import decode_threads
from glotok_ray.training.heartbeat import Attempt
from glotok_ray.training.local import train
from glotok_ray.training.plan import LOG_FOLDER, RunPlan, division
from glotok_ray.training.runs import wait_for_inputs
from glotok_ray.training.stalls import FINISHED
from glotok_ray.training.trainer_feed import trainer_batches

logger = logging.getLogger(__name__)

NOT_FINITE_FILE = "not_finite.txt"
"""Where the first rank leaves why a loss was not finite; the driver reads it."""


def train_worker(loop_config: dict[str, Any]) -> None:
    """What every rank runs, with what `glotok_ray.on_ray.train` tells it."""
    logging.basicConfig(level=logging.WARNING)
    kind = {item.__name__: item for item in (TokenizerRun, XARRun, FARRun, VARRun, RQRun)}[
        loop_config["kind"]
    ]
    config = from_dict(kind, loop_config["run"])
    os.environ.update(loop_config["environment"] | os.environ)
    attempt = Attempt(**loop_config["attempt"])
    plan: RunPlan = loop_config["plan"]
    worker = RayWorker(plan.folder, attempt, config.scaling.stall_minutes)
    if worker.world_size != config.scaling.num_workers:
        config = override(config, {"scaling.num_workers": worker.world_size})
        plan = replace(plan, scaling=config.scaling)
        loop_config |= {"feed": replace(loop_config["feed"], division=division(config))}
    worker.data_facts.add(cache_facts)
    # Rows that the workers read themselves leave the object store as it is.
    is_watched = worker.rank == 0 and loop_config["ingest"] is not None
    watch = StoreWatch() if is_watched else None
    if watch is not None:
        worker.data_facts.add(watch.facts)
    _keep_warnings(plan.folder / LOG_FOLDER / f"rank-{worker.rank:04d}.txt")
    if config.scaling.is_elastic and worker.rank == 0:
        logger.warning("%d workers train", worker.world_size)

    def batches(first_step: int) -> Iterator[MicroBatch]:
        return _batches(loop_config, config.scaling, worker, first_step)

    try:
        wait_for_inputs(config)
        train(config, plan, worker, batches)
        worker.heartbeat.enter(FINISHED)
    except FloatingPointError as error:
        # All workers come here alike. Ray would start them again and meet the same numbers; so they end without an
        # error, and the driver raises what it finds.
        if worker.rank == 0:
            (plan.folder / NOT_FINITE_FILE).write_text(str(error))
    except Exception as error:
        # Ray passes the exception on without its traceback; notes travel.
        error.add_note(traceback.format_exc())
        raise
    finally:
        worker.heartbeat.close()
        if watch is not None:
            watch.close()


def _batches(
    loop_config: dict[str, Any], scaling: ScalingConfig, worker: RayWorker, first_step: int
) -> Iterator[MicroBatch]:
    """The worker's micro batches from a step on, by the way that the attempt has."""
    feed: Feed = loop_config["feed"]
    if loop_config["ingest"] is None:
        return trainer_batches(
            feed.plan,
            feed.division,
            loop_config["reader"],
            worker=worker.rank,
            steps=range(first_step, feed.last_step),
            device=worker.device,
            num_threads=decode_threads(scaling),
        )
    return worker_batches(
        loop_config["ingest"],
        feed,
        worker=worker.rank,
        first_step=first_step,
        device=worker.device,
        group=worker.group,
    )


def _keep_warnings(path: Path) -> None:
    """Append this worker's warnings to a file of the run folder; Ray's own log of a worker goes with its session."""
    try:
        handler = ObjectLog(path) if is_remote(path) else logging.FileHandler(path)
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error)
        return
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
