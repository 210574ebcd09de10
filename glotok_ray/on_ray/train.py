"""Training runs on Ray Train: one DeepSpeed rank per worker, fed by Ray Data, restarted from the newest checkpoint.

The run folder must be seen by every node (a shared file system). Read next: glotok_ray/training/tokenizer_run.py
"""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from glotok_ray import artefact, config
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import FARRun, GeneratorRun, TokenizerRun, XARRun
from glotok_ray.nn.tokenizer import WEIGHTS_FILE
from glotok_ray.on_ray import cluster
from glotok_ray.on_ray.data import micro_batches, ordered_data_config, training_dataset
from glotok_ray.progress import ProgressLine
from glotok_ray.training import checkpoint, runs
from glotok_ray.training.generator_run import fitting_codes, train_generator
from glotok_ray.training.step import DISCRIMINATOR_FILE
from glotok_ray.training.tokenizer_run import check_guides, train_tokenizer
from glotok_ray.training.trainer import (
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    RunPlan,
    check_state_layout,
    last_figures,
)
from glotok_ray.training.worker import DistributedWorker

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
_NOT_FINITE_FILE = "not_finite.txt"
_WORKING_FOLDERS = (CHECKPOINT_FOLDER, "ray", "tensorboard")
# Settings that change neither the weights' meaning nor the data order: a run may be resumed with others.
_FREE_SECTIONS = ("output_path", "scaling")
_FREE_SCHEDULE = (
    "stop_after_steps",
    "micro_batch_size",
    "log_every_steps",
    "checkpoint_every_epochs",
    "checkpoints_to_keep",
)


class RayWorker(DistributedWorker):
    """One rank of a Ray Train run."""

    def __init__(self) -> None:
        super().__init__(ray.train.torch.get_device())

    def report(self, metrics: dict[str, Any]) -> None:
        """Hand an evaluation to Ray Train; checkpoints stay in the run folder, under our own manifests."""
        ray.train.report(metrics)


def run(run: TokenizerRun | XARRun | FARRun, *, fresh: bool = False) -> dict[str, Any]:
    """Train to the end (or `schedule.stop_after_steps`) and return the manifest; a finished run is recognised."""
    run = config.with_absolute_paths(run)
    kind, inputs = _inputs(run)
    plan = runs.run_plan(run)
    if isinstance(run, TokenizerRun):
        check_guides(run)
    else:
        fitting_codes(run)
    mark = artefact.fingerprint(kind, _bound_settings(run), inputs)
    if fresh:
        artefact.set_aside(plan.folder)
    manifest = artefact.finished(plan.folder, kind, mark)
    if manifest and manifest["step"] >= plan.last_step:
        logger.info("%s: already finished: %s", kind, plan.folder)
        return manifest
    newest = checkpoint.newest_checkpoint(plan.folder / CHECKPOINT_FOLDER, verify=False)
    if newest is not None:
        check_state_layout(newest, plan)
    _open_folder(run, plan, mark)
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


def _bound_settings(run: TokenizerRun | GeneratorRun) -> dict[str, Any]:
    settings = config.to_dict(config.with_absolute_paths(run))
    for name in _FREE_SECTIONS:
        del settings[name]
    for name in _FREE_SCHEDULE:
        del settings["schedule"][name]
    if isinstance(run, TokenizerRun) and run.initial_path:
        files = (Path(run.initial_path) / name for name in (WEIGHTS_FILE, DISCRIMINATOR_FILE))
        settings["initial_path"] = [artefact.sha256_of(path) for path in files if path.is_file()]
    return settings


def _open_folder(run: TokenizerRun | GeneratorRun, plan: RunPlan, mark: str) -> None:
    """Make the folder or go on in it; raises ArtefactError when it holds a run of other settings."""
    path = plan.folder / RUN_FILE
    if path.is_file() and artefact.read_json(path)["fingerprint"] != mark:
        raise ArtefactError(
            f"{plan.folder}: holds an unfinished run of other settings or inputs; choose "
            "another --name, or pass --fresh (the old one is kept as "
            f"{plan.folder.name}.previous)"
        )
    plan.folder.mkdir(parents=True, exist_ok=True)
    artefact.write_json(path, {"fingerprint": mark})
    artefact.write_json(plan.folder / "config.json", config.to_dict(run))
    artefact.write_json(plan.folder / "versions.json", artefact.versions())


def _fit(run: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
    cluster.connect()
    scaling = run.scaling
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"kind": type(run).__name__, "run": config.to_dict(run)},
        torch_config=TorchConfig(backend="nccl" if scaling.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker=_worker_resources(run),
        ),
        # A name of its own: Ray Train would silently resume under an old one, and our checkpoints say where to resume.
        run_config=RunConfig(
            name=f"attempt-{int(time.time())}",
            storage_path=str(plan.folder / "ray"),
            failure_config=FailureConfig(max_failures=scaling.max_failures),
        ),
        # A function: called again at every (re)start of the workers, so the data go on where the checkpoint stopped.
        datasets={"train": lambda: _remaining_data(run, plan)},
        dataset_config=ordered_data_config(),
    )
    note = plan.folder / _NOT_FINITE_FILE
    note.unlink(missing_ok=True)
    with _ShownProgress(run, plan):
        trainer.fit()
    if note.is_file():
        raise ArtefactError(note.read_text())


def _worker_resources(run: TokenizerRun | GeneratorRun) -> dict[str, float]:
    resources = {"CPU": run.scaling.cpus_per_worker}
    return resources | ({"GPU": 1.0} if run.scaling.use_gpu else {})


def _remaining_data(run: TokenizerRun | GeneratorRun, plan: RunPlan) -> ray.data.Dataset:
    newest = checkpoint.newest_checkpoint(plan.folder / CHECKPOINT_FOLDER)
    units = runs.plan_units(run, plan, checkpoint.checkpoint_step(newest))
    return training_dataset(runs.row_reader(run), units, rows_per_block=plan.micro_batch_size)


def train_worker(loop_config: dict[str, Any]) -> None:
    """What every rank runs."""
    logging.basicConfig(level=logging.WARNING)
    kind = {item.__name__: item for item in (TokenizerRun, XARRun, FARRun)}[loop_config["kind"]]
    run = config.from_dict(kind, loop_config["run"])
    worker = RayWorker()

    def batches(_: int) -> Iterator[dict[str, torch.Tensor]]:
        shard = ray.train.get_dataset_shard("train")
        assert shard is not None  # _fit always gives one
        size = run.schedule.micro_batch(run.scaling.num_workers)
        return micro_batches(shard, batch_size=size, device=worker.device)

    train = train_tokenizer if isinstance(run, TokenizerRun) else train_generator
    try:
        train(run, worker, batches)  # type: ignore[arg-type]
    except FloatingPointError as error:
        # All workers come here alike. Ray would start them again and meet the same numbers; so they end in peace, and
        # the driver raises what it finds.
        if worker.rank == 0:
            (runs.run_folder(run) / _NOT_FINITE_FILE).write_text(str(error))


class _ShownProgress:
    """Shows the newest line of metrics.jsonl while the workers train; they write it, the driver prints it."""

    def __init__(self, run: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
        self._path = plan.folder / METRICS_FILE
        self._batch = run.schedule.global_batch_size
        self._line = ProgressLine(run.name, plan.last_step * self._batch)
        self._stopped = threading.Event()
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
        figures = last_figures(self._path.parent)
        if figures:
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
