"""What both trainings do around `on_ray.train`: the run folder begun or gone on with, and its manifest at the end.

Read next: glotok_ray/on_ray/train.py
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glotok_ray import faults
from glotok_ray.config.overrides import input_paths, to_dict
from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import Output, check_apart, look
from glotok_ray.training import checkpoint
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER, check_same_layout, check_state_layout
from glotok_ray.training.evaluated_checkpoints import BEST_FOLDER, WORK_FOLDER, read_best
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.metrics_log import TENSORBOARD_FOLDER
from glotok_ray.training.plan import LOG_FOLDER, RAY_FOLDER, RUN_FILE, RunPlan
from glotok_ray.training.profiling import PROFILE_FOLDER
from glotok_ray.training.rows_seen import AUDIT_FOLDER, BAD_ROWS_FOLDER, check_broken_before
from glotok_ray.training.stalls import HEARTBEAT_FOLDER, STALL_FOLDER
from glotok_ray.training.tracked_run import TRACKER_FOLDER

logger = logging.getLogger(__name__)

_CONFIG_FILE = "config.json"
_WORKING_FOLDERS = (
    CHECKPOINT_FOLDER,
    TENSORBOARD_FOLDER,
    TRACKER_FOLDER,
    PROFILE_FOLDER,
    RAY_FOLDER,
    LOG_FOLDER,
    HEARTBEAT_FOLDER,
    STALL_FOLDER,
    faults.FAULT_FOLDER,
    AUDIT_FOLDER,
    BAD_ROWS_FOLDER,
    WORK_FOLDER,
    BEST_FOLDER,
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
    check_apart(plan.folder, input_paths(config).values(), fresh=fresh)
    output = look(plan.folder, kind, settings, inputs, fresh=fresh)
    if output.finished is not None:
        _check_finished_layout(plan)
        _check_step(plan.folder, output.finished["step"], plan)
        if output.finished["step"] == plan.last_step:
            logger.info("%s: already finished: %s", kind, plan.folder)
            return output.finished
    newest = checkpoint.newest_checkpoint(plan.folder / CHECKPOINT_FOLDER, verify=False)
    if newest is not None and not fresh:
        check_state_layout(newest, plan)
        step = checkpoint.checkpoint_step(newest)
        _check_step(newest, step, plan)
        check_broken_before(plan.folder, step, plan.max_bad_rows)
    _open_folder(output, config, facts)
    faults.boundary("unit", 0)
    _fit(config, plan)
    best = read_best(plan.folder)
    return output.finish(
        exclude=_WORKING_FOLDERS,
        step=plan.last_step,
        metrics=last_metrics(plan.folder),
        **({"best_checkpoint": best} if best else {}),
    )


def _check_finished_layout(plan: RunPlan) -> None:
    """Raise ArtefactError where the finished run was trained under another engine or precision, which its fingerprint
    does not hold; its config.json does, and where it tells nothing, the run is taken as it is.
    """
    path = plan.folder / _CONFIG_FILE
    stored = artefact.read_json(path) if path.is_file() else {}
    scaling = {f"scaling.{name}": value for name, value in stored.get("scaling", {}).items()}
    check_same_layout(plan.folder, plan.state_layout | scaling, plan)


def _check_step(path: Path, step: int, plan: RunPlan) -> None:
    """Raise ArtefactError where the run has come further than it is to go: the weights would be told as of a step that
    they have left behind.
    """
    if step > plan.last_step:
        raise ArtefactError(
            f"{path}: is at step {step} already, and this command ends at step {plan.last_step} "
            "(schedule.stop_after_steps, num_steps or epochs); let it end there or later, or give --fresh or another "
            "--name"
        )


def _fit(config: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
    if config.launcher == "local":
        if config.checkpoint_evaluation.every_steps:
            logger.warning(
                "checkpoints are not evaluated: launcher = 'local' has no process beside its own; take launcher = 'ray'"
            )
        from glotok_ray.training import local

        local.fit(config, plan)
        return
    # A local training needs no Ray.
    from glotok_ray.on_ray import train

    train.fit(config, plan)


def _open_folder(
    output: Output, config: TokenizerRun | GeneratorRun, facts: Mapping[str, Any]
) -> None:
    """Make the folder or go on in it; raises ArtefactError when it holds a run of other settings."""
    folder = output.go_on()
    # A stopped run goes on: until it ends again, its folder is unfinished. A manifest that were still there after a
    # kill would tell other files than those written here.
    output.reopen()
    artefact.write_json(folder / RUN_FILE, dict(facts))
    artefact.write_json(folder / _CONFIG_FILE, to_dict(config))
    artefact.write_json(folder / "versions.json", artefact.versions())
