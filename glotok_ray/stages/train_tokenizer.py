"""The training of a tokenizer: shards and a teacher in, a run folder with weights out.

Read next: glotok_ray/stages/training.py
"""

import logging
from pathlib import Path
from typing import Any

from glotok_ray.config import overrides
from glotok_ray.config.overrides import with_absolute_paths
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.data.recorded import crops_text
from glotok_ray.pretrained.tokenizer import DISCRIMINATOR_FILE, WEIGHTS_FILE
from glotok_ray.stages import training
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.places import to_path
from glotok_ray.training import inputs
from glotok_ray.training.checkpoint_protocol import check_checkpoint_evaluation
from glotok_ray.training.plan import run_plan

logger = logging.getLogger(__name__)


@ownership.holding()
def run(config: TokenizerRun, *, fresh: bool = False) -> dict[str, Any]:
    """Train to the end (or `schedule.stop_after_steps`) and return the manifest; a finished run is recognised."""
    config = with_absolute_paths(config)
    folders = check_inputs(config)
    plan = run_plan(config)
    crops = crops_text(plan.dataset)
    logger.info("training on %s", crops)
    return training.train_to_the_end(
        config,
        plan,
        kind="tokenizer",
        inputs=folders,
        settings=bound_settings(config),
        facts={"crops": crops},
        fresh=fresh,
    )


def bound_settings(config: TokenizerRun) -> dict[str, Any]:
    """The settings of a run that decide its weights and the order of its data: it goes on with these alone."""
    settings = overrides.bound_settings(config)
    if config.initial_path:
        files = (to_path(config.initial_path) / name for name in (WEIGHTS_FILE, DISCRIMINATOR_FILE))
        settings["initial_path"] = [artefact.sha256_of(path) for path in files if path.is_file()]
    return settings


def check_inputs(config: TokenizerRun) -> list[Path]:
    """The folders that decide the run; raises ValueError for one that is damaged, or that does not fit the run."""
    found = [("shards", config.data.train_path)]
    if config.teacher_path:
        found.append(("teacher", config.teacher_path))
    if config.data.validation_path:
        found.append(("shards", config.data.validation_path))
    for kind, path in found:
        artefact.read_manifest(to_path(path), kind)
    inputs.check_inputs(config)
    check_checkpoint_evaluation(config)
    return [to_path(path) for _, path in found]
