"""Training runs on Ray Train: one DeepSpeed rank per worker, fed by Ray Data, restarted from the newest checkpoint.

The run folder must be seen by every node (a shared file system). Read next: glotok_ray/training/tokenizer_run.py
"""

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig
from ray.train.torch import TorchConfig

from glotok_ray import faults
from glotok_ray.config.overrides import from_dict, override, to_dict
from glotok_ray.config.runs import FARRun, GeneratorRun, TokenizerRun, VARRun, XARRun
from glotok_ray.config.training import ScalingConfig
from glotok_ray.data.training_rows import CodeRows, ImageRows
from glotok_ray.on_ray import cluster
from glotok_ray.on_ray.attempts import Attempts, attempt_name
from glotok_ray.on_ray.checkpoint_evaluation import evaluating_checkpoints
from glotok_ray.on_ray.data import Feed, start_ingest, worker_batches
from glotok_ray.on_ray.elastic import LOOK_EVERY_S, trainer_of
from glotok_ray.on_ray.gauges import WorkerGauges
from glotok_ray.on_ray.interruption import AbortedWithDriver, wait_for
from glotok_ray.on_ray.store_watch import StoreWatch
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import cache_facts
from glotok_ray.storage.object_streams import ObjectLog
from glotok_ray.storage.places import appending, is_remote, local_twin
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.decode_place import (
    DecodePlace,
    decode_place,
    decode_threads,
    described,
)
from glotok_ray.training.heartbeat import (
    FIRST_STEP_FACTOR,
    Attempt,
    Heartbeat,
    WatchedHeartbeat,
)
from glotok_ray.training.local import train
from glotok_ray.training.plan import (
    LOG_FOLDER,
    RAY_FOLDER,
    RunPlan,
    division,
    row_plan,
    row_reader,
)
from glotok_ray.training.preemption import NodeReclaimed
from glotok_ray.training.runs import wait_for_inputs
from glotok_ray.training.shown_progress import ShownProgress
from glotok_ray.training.stalls import FINISHED
from glotok_ray.training.trackers import carried_environment
from glotok_ray.training.trainer_feed import trainer_batches
from glotok_ray.training.worker import DistributedWorker

logger = logging.getLogger(__name__)

_NOT_FINITE_FILE = "not_finite.txt"
_HEALTH_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"


class RayWorker(DistributedWorker):
    """One rank of a Ray Train run."""

    def __init__(self, folder: Path, attempt: Attempt, stall_minutes: float) -> None:
        super().__init__(ray.train.torch.get_device())
        self.heartbeat: Heartbeat = WatchedHeartbeat(
            folder, self.rank, self.world_size, attempt, stall_minutes
        )
        self._gauges = WorkerGauges(folder.name, self.rank)
        # Ray Train may start the workers again within an attempt.
        now = time.time_ns() // 1000 if self.rank == 0 else 0
        self.group = int(self.all_sum(torch.tensor(now, device=self.device)))

    def release(self) -> None:
        """Leave the node: all workers end, and those that are left or come go on."""
        raise NodeReclaimed("the node of a worker is taken back; all state is saved")

    def report(self, metrics: dict[str, Any]) -> None:
        """Hand an evaluation to Ray Train; checkpoints stay in the run folder, under our own manifests."""
        ray.train.report(metrics)

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Set this rank's gauges; its own memory, where the line tells the largest of all ranks."""
        own = {"memory/peak_gib": self.memory.gib()} if "memory/peak_gib" in metrics else {}
        self._gauges.set({**metrics, **own})


def fit(config: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
    """Train to the end of `plan`, in attempts that go on from the newest checkpoint; raises ArtefactError, with the
    text that the workers left, for a loss that is not finite.
    """
    fault = os.environ.get(faults.VARIABLE, "")
    faults.parse_faults(fault)
    cluster.connect()
    (plan.folder / LOG_FOLDER).mkdir(exist_ok=True)
    note = plan.folder / _NOT_FINITE_FILE
    note.unlink(missing_ok=True)
    # Read once, while the inputs are known to be there: storage may be away when a later attempt starts.
    feed = Feed(row_plan(config, plan), division(config), plan.last_step)
    reader = row_reader(config, plan)
    logger.info("%s", described(config.scaling, _decode_place(config), cluster.num_cpus()))
    with (
        ShownProgress(config.name, plan),
        _patient_health_checks(config.scaling.stall_minutes),
        _ray_prints_to(plan.folder / artefact.LOG_FILE),
    ):
        Attempts(plan, fault=fault).run(lambda attempt: _train(config, plan, attempt, feed, reader))
    if note.is_file():
        raise ArtefactError(note.read_text())


def _train(
    config: TokenizerRun | GeneratorRun,
    plan: RunPlan,
    attempt: Attempt,
    feed: Feed,
    reader: ImageRows | CodeRows,
) -> None:
    """One attempt, its checkpoints evaluated beside it."""
    with evaluating_checkpoints(config, plan, attempt.number, _all_resources(config)):
        wait_for(_trainer(config, plan, attempt, feed, reader).fit)


def _trainer(
    config: TokenizerRun | GeneratorRun,
    plan: RunPlan,
    attempt: Attempt,
    feed: Feed,
    reader: ImageRows | CodeRows,
) -> AbortedWithDriver:
    scaling = config.scaling
    # Of each attempt anew: nodes come and go.
    in_trainer = _decode_place(config) == "trainer"
    ingest = None if in_trainer else start_ingest(feed, reader, _all_resources(config))
    make, num_workers = trainer_of(plan)
    return make(
        train_worker,
        train_loop_config={
            "kind": type(config).__name__,
            "run": to_dict(config),
            "plan": plan,
            "attempt": asdict(attempt),
            "feed": feed,
            # Rows come from Ray Data, or this reader reads them in the worker.
            "ingest": ingest,
            "reader": reader if in_trainer else None,
            "environment": carried_environment(),
        },
        torch_config=_torch_config(scaling),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            elastic_resize_monitor_interval_s=LOOK_EVERY_S,
            use_gpu=scaling.use_gpu,
            resources_per_worker=_worker_resources(config),
        ),
        run_config=RunConfig(
            name=attempt_name(attempt.number),
            # Ray's own files alone: checkpoints are ours.
            storage_path=str(local_twin(plan.folder / RAY_FOLDER)),
            # Nodes that are drained or reclaimed cost nothing (max_preemption_failures, -1 as given); other failures
            # are counted over a window of time by ours.
            failure_config=FailureConfig(max_failures=0),
            # Errors come back as exceptions; their tracebacks go to our own log.
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _decode_place(config: TokenizerRun | GeneratorRun) -> DecodePlace:
    return decode_place(config.scaling, cluster.num_cpus())


def _torch_config(scaling: ScalingConfig) -> TorchConfig:
    backend = "nccl" if scaling.use_gpu else "gloo"
    if not scaling.stall_minutes:
        return TorchConfig(backend=backend)
    # A collective must not time out on the ranks that wait before our watch has named the one that they wait for.
    limit_s = 60 * scaling.stall_minutes * FIRST_STEP_FACTOR
    return TorchConfig(backend=backend, timeout_s=int(limit_s) + 600)


@contextlib.contextmanager
def _ray_prints_to(path: Path) -> Iterator[None]:
    """Ray prints the end of every worker to stdout, where the job's answer belongs."""
    with (
        appending(path) as local,
        local.open("a", buffering=1) as stream,
        contextlib.redirect_stdout(stream),
    ):
        yield


@contextlib.contextmanager
def _patient_health_checks(stall_minutes: float) -> Iterator[None]:
    """Let Ray Train give up a worker that does not answer (alone in its group nobody watches it) after our own watch
    has had its time; a user's own setting stays.
    """
    if not stall_minutes or _HEALTH_VARIABLE in os.environ:
        yield
        return
    os.environ[_HEALTH_VARIABLE] = str(int(90 * stall_minutes) + 30)
    try:
        yield
    finally:
        del os.environ[_HEALTH_VARIABLE]


def _worker_resources(config: TokenizerRun | GeneratorRun) -> dict[str, float]:
    resources = {"CPU": config.scaling.cpus_per_worker}
    return resources | ({"GPU": 1.0} if config.scaling.use_gpu else {})


def _all_resources(config: TokenizerRun | GeneratorRun) -> dict[str, float]:
    """Of all workers together, the most that there may be."""
    workers = config.scaling.worker_range[1]
    return {name: amount * workers for name, amount in _worker_resources(config).items()}


def train_worker(loop_config: dict[str, Any]) -> None:
    """What every rank runs."""
    logging.basicConfig(level=logging.WARNING)
    kind = {item.__name__: item for item in (TokenizerRun, XARRun, FARRun, VARRun)}[
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
    watch = StoreWatch() if worker.rank == 0 else None
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
            (plan.folder / _NOT_FINITE_FILE).write_text(str(error))
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
