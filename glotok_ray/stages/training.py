"""What both trainings do around `on_ray.train`: the run folder begun or gone on with, and its manifest at the end.

Read next: glotok_ray/on_ray/train.py
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glotok_ray import faults
from glotok_ray.config.overrides import to_dict
from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.storage import artefact, begun
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training import checkpoint
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER, check_state_layout
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.metrics_log import TENSORBOARD_FOLDER
from glotok_ray.training.plan import LOG_FOLDER, RAY_FOLDER, RUN_FILE, RunPlan
from glotok_ray.training.profiling import PROFILE_FOLDER
from glotok_ray.training.rows_seen import AUDIT_FOLDER, BAD_ROWS_FOLDER
from glotok_ray.training.stalls import HEARTBEAT_FOLDER, STALL_FOLDER

logger = logging.getLogger(__name__)

_WORKING_FOLDERS = (
    CHECKPOINT_FOLDER,
    TENSORBOARD_FOLDER,
    PROFILE_FOLDER,
    RAY_FOLDER,
    LOG_FOLDER,
    HEARTBEAT_FOLDER,
    STALL_FOLDER,
    faults.FAULT_FOLDER,
    AUDIT_FOLDER,
    BAD_ROWS_FOLDER,
)


def train_to_the_end(
    config: TokenizerRun | GeneratorRun,
    plan: RunPlan,
    *,
    kind: str,
    inputs: list[Path],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    fresh: bool,
) -> dict[str, Any]:
    """Train to the end (or `schedule.stop_after_steps`) and return the manifest; a finished run is recognised.

    `settings` decide what the run is, `facts` are noted in run.json.
    """
    fingerprint = artefact.fingerprint(kind, dict(settings), inputs)
    if fresh:
        begun.set_aside(plan.folder)
    manifest = artefact.finished(plan.folder, kind, fingerprint)
    if manifest and manifest["step"] >= plan.last_step:
        logger.info("%s: already finished: %s", kind, plan.folder)
        return manifest
    newest = checkpoint.newest_checkpoint(plan.folder / CHECKPOINT_FOLDER, verify=False)
    if newest is not None:
        check_state_layout(newest, plan)
    _open_folder(config, plan, fingerprint, facts)
    faults.boundary("unit", 0)
    # A stopped run goes on: until it ends again, its folder is unfinished.
    (plan.folder / artefact.MANIFEST).unlink(missing_ok=True)
    _fit(config, plan)
    metrics = last_metrics(plan.folder)
    return artefact.write_manifest(
        plan.folder,
        kind,
        fingerprint,
        exclude=_WORKING_FOLDERS,
        step=plan.last_step,
        metrics=metrics,
    )


def _fit(config: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
    if config.launcher == "local":
        from glotok_ray.training import local

        local.fit(config, plan)
        return
    # A local training needs no Ray.
    from glotok_ray.on_ray import train

    train.fit(config, plan)


def _open_folder(
    config: TokenizerRun | GeneratorRun, plan: RunPlan, fingerprint: str, facts: Mapping[str, Any]
) -> None:
    """Make the folder or go on in it; raises ArtefactError when it holds a run of other settings."""
    path = plan.folder / RUN_FILE
    before = artefact.read_json(path) if path.is_file() else {}
    # Older versions noted it here alone, and a copy of a folder may lack its hidden mark.
    if before.get("fingerprint", fingerprint) != fingerprint:
        raise ArtefactError(
            f"{plan.folder}: holds an unfinished run of other settings or inputs; choose another --name, or pass "
            f"--fresh (the old one is kept as {plan.folder.name}.previous)"
        )
    begun.go_on(plan.folder, fingerprint)
    artefact.write_json(path, {"fingerprint": fingerprint, **facts})
    artefact.write_json(plan.folder / "config.json", to_dict(config))
    artefact.write_json(plan.folder / "versions.json", artefact.versions())
