"""Training runs on Ray Train: one DeepSpeed rank per worker, fed by Ray Data, restarted from the newest checkpoint.

The run folder must be seen by every node (a shared file system). Read next: glotok_ray/on_ray/train_worker.py
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig

from glotok_ray import faults
from glotok_ray.config.overrides import to_dict
from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.config.training import ScalingConfig
from glotok_ray.data.training_rows import CodeRows, ImageRows
from glotok_ray.on_ray import cluster
from glotok_ray.on_ray.attempts import Attempts, attempt_name
from glotok_ray.on_ray.checkpoint_evaluation import evaluating_checkpoints
from glotok_ray.on_ray.elastic import LOOK_EVERY_S, trainer_of
from glotok_ray.on_ray.interruption import AbortedWithDriver, wait_for
from glotok_ray.on_ray.process_group import ProcessGroupConfig
from glotok_ray.on_ray.process_wide import stdout_to, variable
from glotok_ray.on_ray.train_worker import NOT_FINITE_FILE, train_worker
from glotok_ray.on_ray.windows import Feed, start_ingest
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import appending, local_twin
from glotok_ray.training.decode_place import (
    DecodePlace,
    decode_place,
    described,
)
from glotok_ray.training.heartbeat import (
    FIRST_STEP_FACTOR,
    Attempt,
)
from glotok_ray.training.plan import (
    LOG_FOLDER,
    RAY_FOLDER,
    RunPlan,
    division,
    row_plan,
    row_reader,
)
from glotok_ray.training.shown_progress import ShownProgress
from glotok_ray.training.trackers import carried_environment

logger = logging.getLogger(__name__)

_HEALTH_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"


def fit(config: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
    """Train to the end of `plan`, in attempts that go on from the newest checkpoint; raises ArtefactError, with the
    text that the workers left, for a loss that is not finite.
    """
    fault = os.environ.get(faults.VARIABLE, "")
    faults.parse_faults(fault)
    cluster.connect()
    (plan.folder / LOG_FOLDER).mkdir(exist_ok=True)
    note = plan.folder / NOT_FINITE_FILE
    note.unlink(missing_ok=True)
    # Read once, while the inputs are known to be there: storage may be away when a later attempt starts.
    feed = Feed(row_plan(config, plan), division(config), plan.last_step)
    reader = row_reader(config, plan)
    logger.info(
        "%s",
        described(
            config.scaling,
            _decode_place(config),
            cluster.num_cpus(),
            has_images=isinstance(config, TokenizerRun),
        ),
    )
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
    with evaluating_checkpoints(config, plan, attempt.number, all_resources(config)):
        trainer = _trainer(config, plan, attempt, feed, reader)
        wait_for(trainer.fit, trainer.abort)


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
    ingest = None if in_trainer else start_ingest(feed, reader, all_resources(config))
    make, num_workers = trainer_of(plan)
    loop_config = {
        "kind": type(config).__name__,
        "run": to_dict(config),
        "plan": plan,
        "attempt": asdict(attempt),
        "feed": feed,
        # Rows come from Ray Data, or this reader reads them in the worker.
        "ingest": ingest,
        "reader": reader if in_trainer else None,
        "environment": carried_environment(),
    }
    return make(
        # Not by `train_loop_config`: the controller would unpickle it as well, and import torch for it.
        functools.partial(train_worker, loop_config),
        backend_config=_process_group(scaling),
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
    has_images = isinstance(config, TokenizerRun)
    return decode_place(config.scaling, cluster.num_cpus(), has_images=has_images)


def _process_group(scaling: ScalingConfig) -> ProcessGroupConfig:
    backend = "nccl" if scaling.use_gpu else "gloo"
    if not scaling.stall_minutes:
        return ProcessGroupConfig(backend=backend)
    # A collective must not time out on the ranks that wait before our watch has named the one that they wait for.
    limit_s = 60 * scaling.stall_minutes * FIRST_STEP_FACTOR
    return ProcessGroupConfig(backend=backend, timeout_s=int(limit_s) + 600)


@contextlib.contextmanager
def _ray_prints_to(path: Path) -> Iterator[None]:
    """Ray prints the end of every worker to stdout, where the job's answer belongs."""
    with appending(path) as local, local.open("a", buffering=1) as stream, stdout_to(stream):
        yield


@contextlib.contextmanager
def _patient_health_checks(stall_minutes: float) -> Iterator[None]:
    """Let Ray Train give up a worker that does not answer (alone in its group nobody watches it) after our own watch
    has had its time; a user's own setting stays.
    """
    if not stall_minutes:
        yield
        return
    with variable(_HEALTH_VARIABLE, str(int(90 * stall_minutes) + 30)):
        yield


def _worker_resources(config: TokenizerRun | GeneratorRun) -> dict[str, float]:
    resources = {"CPU": config.scaling.cpus_per_worker}
    return resources | ({"GPU": 1.0} if config.scaling.use_gpu else {})


def all_resources(config: TokenizerRun | GeneratorRun) -> dict[str, float]:
    """Logical resources of all workers of a training together, the most that there may be."""
    workers = config.scaling.worker_range[1]
    return {name: amount * workers for name, amount in _worker_resources(config).items()}
