"""Training runs on Ray Train: one DeepSpeed rank per worker, fed by Ray Data, restarted from the newest checkpoint.

The run folder must be seen by every node (a shared file system). Read next: glotok_ray/training/tokenizer_run.py
"""

import contextlib
import logging
import os
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig

from glotok_ray import artefact, begun, config, faults, ownership
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import FARRun, GeneratorRun, TokenizerRun, XARRun
from glotok_ray.nn.tokenizer import WEIGHTS_FILE
from glotok_ray.on_ray import cluster
from glotok_ray.on_ray.attempts import LOG_FOLDER, RAY_FOLDER, Attempts, attempt_name
from glotok_ray.on_ray.data import Feed, RowReader, start_ingest, worker_batches
from glotok_ray.on_ray.interruption import AbortedWithDriver, wait_for
from glotok_ray.progress import ProgressLine
from glotok_ray.training import checkpoint, runs
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.generator_run import train_generator
from glotok_ray.training.heartbeat import FIRST_STEP_FACTOR, Attempt, WatchedHeartbeat
from glotok_ray.training.inputs import check_inputs
from glotok_ray.training.rows_seen import AUDIT_FOLDER, BAD_ROWS_FOLDER
from glotok_ray.training.stalls import FINISHED, HEARTBEAT_FOLDER, STALL_FOLDER
from glotok_ray.training.step import DISCRIMINATOR_FILE
from glotok_ray.training.tokenizer_run import train_tokenizer
from glotok_ray.training.trainer import (
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    TENSORBOARD_FOLDER,
    RunPlan,
    check_state_layout,
    last_figures,
    latest_figures,
)
from glotok_ray.training.worker import DistributedWorker

logger = logging.getLogger(__name__)

_NOT_FINITE_FILE = "not_finite.txt"
_WORKING_FOLDERS = (
    CHECKPOINT_FOLDER,
    TENSORBOARD_FOLDER,
    RAY_FOLDER,
    LOG_FOLDER,
    HEARTBEAT_FOLDER,
    STALL_FOLDER,
    faults.FAULT_FOLDER,
    AUDIT_FOLDER,
    BAD_ROWS_FOLDER,
)
_HEALTH_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
# Settings that change neither the weights' meaning nor the data order: a run may be resumed with others.
_FREE_SECTIONS = ("output_path", "scaling", "audit_keys")
_FREE_SCHEDULE = (
    "stop_after_steps",
    "micro_batch_size",
    "log_every_steps",
    "checkpoint_every_epochs",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "checkpoints_to_keep",
)
# Settings that came later, with the values that stand for how it was before: so long they are left out, and a run of
# an older version goes on.
_ADDED_LATER = {
    "loss": {
        "entropy_epsilon": 1e-20,
        "entropy_epsilon_placing": "floor",
        "discriminator_loss_scale": 1.0,
    }
}


class RayWorker(DistributedWorker):
    """One rank of a Ray Train run."""

    def __init__(self, folder: Path, attempt: Attempt, stall_minutes: float) -> None:
        super().__init__(ray.train.torch.get_device())
        self.heartbeat = WatchedHeartbeat(
            folder, self.rank, self.world_size, attempt, stall_minutes
        )

    def report(self, metrics: dict[str, Any]) -> None:
        """Hand an evaluation to Ray Train; checkpoints stay in the run folder, under our own manifests."""
        ray.train.report(metrics)


@ownership.holding()
def run(run: TokenizerRun | XARRun | FARRun, *, fresh: bool = False) -> dict[str, Any]:
    """Train to the end (or `schedule.stop_after_steps`) and return the manifest; a finished run is recognised."""
    run = config.with_absolute_paths(run)
    kind, inputs = _inputs(run)
    plan = runs.run_plan(run)
    check_inputs(run)
    if isinstance(run, TokenizerRun):
        logger.info("training on %s", runs.training_crops(run))
    mark = artefact.fingerprint(kind, bound_settings(run), inputs)
    if fresh:
        begun.set_aside(plan.folder)
    manifest = artefact.finished(plan.folder, kind, mark)
    if manifest and manifest["step"] >= plan.last_step:
        logger.info("%s: already finished: %s", kind, plan.folder)
        return manifest
    newest = checkpoint.newest_checkpoint(plan.folder / CHECKPOINT_FOLDER, verify=False)
    if newest is not None:
        check_state_layout(newest, plan)
    _open_folder(run, plan, mark)
    faults.boundary("unit", 0)
    # A stopped run goes on: until it ends again, its folder is unfinished.
    (plan.folder / artefact.MANIFEST).unlink(missing_ok=True)
    _fit(run, plan)
    figures = last_figures(plan.folder)
    return artefact.write_manifest(
        plan.folder, kind, mark, exclude=_WORKING_FOLDERS, step=plan.last_step, figures=figures
    )


def _inputs(run: TokenizerRun | GeneratorRun) -> tuple[str, list[Path]]:
    if isinstance(run, TokenizerRun):
        found = {"shards": Path(run.data.train_path)}
        if run.teacher_path:
            found["teacher"] = Path(run.teacher_path)
        kind = "tokenizer"
    else:
        found = {"codes": Path(run.data.train_path), "tokenizer": Path(run.tokenizer_path)}
        kind = "generator"
    for name, folder in found.items():
        artefact.read_manifest(folder, name)
    inputs = list(found.values())
    if isinstance(run, TokenizerRun) and run.data.validation_path:
        artefact.read_manifest(Path(run.data.validation_path), "shards")
        inputs.append(Path(run.data.validation_path))
    return kind, inputs


def bound_settings(run: TokenizerRun | GeneratorRun) -> dict[str, Any]:
    """The settings of a run that decide its weights and the order of its data: it goes on with these alone."""
    settings = config.to_dict(config.with_absolute_paths(run))
    for name in _FREE_SECTIONS:
        del settings[name]
    for name in _FREE_SCHEDULE:
        del settings["schedule"][name]
    for section, defaults in _ADDED_LATER.items():
        for name, before in defaults.items():
            if settings.get(section, {}).get(name) == before:
                del settings[section][name]
    # Whoever allows more broken rows goes on where the run stopped for them; what is refused changes no weight.
    for name in ("max_bad_rows", "adm_protocol", "views"):
        settings["data"].pop(name, None)
    if isinstance(run, TokenizerRun) and run.initial_path:
        files = (Path(run.initial_path) / name for name in (WEIGHTS_FILE, DISCRIMINATOR_FILE))
        settings["initial_path"] = [artefact.sha256_of(path) for path in files if path.is_file()]
    return settings


def _open_folder(run: TokenizerRun | GeneratorRun, plan: RunPlan, mark: str) -> None:
    """Make the folder or go on in it; raises ArtefactError when it holds a run of other settings."""
    path = plan.folder / runs.RUN_FILE
    before = artefact.read_json(path) if path.is_file() else {}
    # Older versions noted it here alone, and a copy of a folder may lack its hidden mark.
    if before.get("fingerprint", mark) != mark:
        raise ArtefactError(
            f"{plan.folder}: holds an unfinished run of other settings or inputs; choose another --name, or pass "
            f"--fresh (the old one is kept as {plan.folder.name}.previous)"
        )
    begun.go_on(plan.folder, mark)
    crops = {"crops": runs.training_crops(run)} if isinstance(run, TokenizerRun) else {}
    artefact.write_json(path, {"fingerprint": mark, **crops})
    artefact.write_json(plan.folder / "config.json", config.to_dict(run))
    artefact.write_json(plan.folder / "versions.json", artefact.versions())


def _fit(run: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
    fault = os.environ.get(faults.VARIABLE, "")
    faults.parse_faults(fault)
    cluster.connect()
    note = plan.folder / _NOT_FINITE_FILE
    note.unlink(missing_ok=True)
    # Read once, while the inputs are known to be there: storage may be away when a later attempt starts.
    feed = Feed(runs.row_plan(run, plan), runs.division(run), plan.last_step)
    reader = runs.row_reader(run)
    with (
        _ShownProgress(run, plan),
        _patient_health_checks(run.scaling.stall_minutes),
        _ray_prints_to(plan.folder / LOG_FOLDER / "ray.txt"),
    ):
        Attempts(plan, fault=fault).run(
            lambda attempt: wait_for(_trainer(run, plan, attempt, feed, reader).fit)
        )
    if note.is_file():
        raise ArtefactError(note.read_text())


def _trainer(
    run: TokenizerRun | GeneratorRun,
    plan: RunPlan,
    attempt: Attempt,
    feed: Feed,
    reader: RowReader,
) -> AbortedWithDriver:
    scaling = run.scaling
    worker = _worker_resources(run)
    reserved = {name: amount * scaling.num_workers for name, amount in worker.items()}
    return AbortedWithDriver(
        train_worker,
        train_loop_config={
            "kind": type(run).__name__,
            "run": config.to_dict(run),
            "attempt": asdict(attempt),
            "feed": feed,
            "ingest": start_ingest(feed, reader, reserved),
        },
        torch_config=_torch_config(scaling),
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker=worker,
        ),
        run_config=RunConfig(
            name=attempt_name(attempt.number),
            storage_path=str(plan.folder / RAY_FOLDER),
            # Nodes that are drained or reclaimed cost nothing (max_preemption_failures, -1 as given); other failures
            # are counted over a window of time by ours.
            failure_config=FailureConfig(max_failures=0),
            # Errors come back as exceptions; their tracebacks go to our own log.
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _torch_config(scaling: config.ScalingConfig) -> TorchConfig:
    backend = "nccl" if scaling.use_gpu else "gloo"
    if not scaling.stall_minutes:
        return TorchConfig(backend=backend)
    # A collective must not time out on the ranks that wait before our watch has named the one that they wait for.
    limit_s = 60 * scaling.stall_minutes * FIRST_STEP_FACTOR
    return TorchConfig(backend=backend, timeout_s=int(limit_s) + 600)


@contextlib.contextmanager
def _ray_prints_to(path: Path) -> Iterator[None]:
    """Ray prints the end of every worker to stdout, where the job's answer belongs."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", buffering=1) as stream, contextlib.redirect_stdout(stream):
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


def _worker_resources(run: TokenizerRun | GeneratorRun) -> dict[str, float]:
    resources = {"CPU": run.scaling.cpus_per_worker}
    return resources | ({"GPU": 1.0} if run.scaling.use_gpu else {})


def train_worker(loop_config: dict[str, Any]) -> None:
    """What every rank runs."""
    logging.basicConfig(level=logging.WARNING)
    kind = {item.__name__: item for item in (TokenizerRun, XARRun, FARRun)}[loop_config["kind"]]
    run = config.from_dict(kind, loop_config["run"])
    attempt = Attempt(**loop_config["attempt"])
    worker = RayWorker(runs.run_folder(run), attempt, run.scaling.stall_minutes)
    _keep_warnings(runs.run_folder(run) / LOG_FOLDER / f"rank-{worker.rank:04d}.txt")

    def batches(first_step: int) -> Iterator[MicroBatch]:
        return worker_batches(
            loop_config["ingest"],
            loop_config["feed"],
            worker=worker.rank,
            first_step=first_step,
            device=worker.device,
        )

    train = train_tokenizer if isinstance(run, TokenizerRun) else train_generator
    try:
        runs.wait_for_inputs(run)
        train(run, worker, batches)  # type: ignore[arg-type]
        worker.heartbeat.enter(FINISHED)
    except FloatingPointError as error:
        # All workers come here alike. Ray would start them again and meet the same numbers; so they end in peace, and
        # the driver raises what it finds.
        if worker.rank == 0:
            (runs.run_folder(run) / _NOT_FINITE_FILE).write_text(str(error))
    except Exception as error:
        # Ray passes the exception on without its traceback; notes travel.
        error.add_note(traceback.format_exc())
        raise
    finally:
        worker.heartbeat.close()


def _keep_warnings(path: Path) -> None:
    """Append this worker's warnings to a file of the run folder; Ray's own log of a worker goes with its session."""
    try:
        handler = logging.FileHandler(path)
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error)
        return
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)


class _ShownProgress:
    """Shows the newest line of metrics.jsonl while the workers train; they write it, the driver prints it."""

    def __init__(self, run: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
        self._path = plan.folder / METRICS_FILE
        self._batch = run.schedule.global_batch_size
        self._line = ProgressLine(run.name, plan.last_step * self._batch)
        self._stopped = threading.Event()
        self._shown: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._show()

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            self._show()

    def _show(self) -> None:
        figures = latest_figures(self._path.parent)
        if figures and figures != self._shown:
            self._shown = figures
            self._line.update(int(figures["step"] * self._batch), _describe(figures))


def _describe(figures: dict[str, float]) -> str:
    shown = {
        "train/total": "loss",
        "train/flow_matching": "loss",
        "train/cross_entropy": "loss",
        "eval/psnr": "PSNR",
        "eval/relation_kl": "relation KL",
    }
    return "  ".join(
        f"{label} {figures[name]:.4g}" for name, label in shown.items() if name in figures
    )
