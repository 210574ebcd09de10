"""The training of a generator: codes and their tokenizer in, a run folder with weights and their average out.

Read next: glotok_ray/stages/training.py
"""

from pathlib import Path
from typing import Any

from glotok_ray.config.overrides import bound_settings, with_absolute_paths
from glotok_ray.config.runs import AnyGeneratorRun
from glotok_ray.stages import training
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.places import to_path
from glotok_ray.training import inputs
from glotok_ray.training.checkpoint_protocol import check_checkpoint_evaluation
from glotok_ray.training.plan import run_plan


@ownership.holding()
def run(config: AnyGeneratorRun, *, fresh: bool = False) -> dict[str, Any]:
    """Train to the end (or `schedule.stop_after_steps`) and return the manifest; a finished run is recognised."""
    config = with_absolute_paths(config)
    folders = check_inputs(config)
    return training.train_to_the_end(
        config,
        run_plan(config),
        kind="generator",
        inputs=folders,
        settings=bound_settings(config),
        facts={},
        fresh=fresh,
    )


def check_inputs(config: AnyGeneratorRun) -> list[Path]:
    """The folders that decide the run; raises ValueError for one that is damaged, or that does not fit the run."""
    found = {"codes": to_path(config.data.train_path), "tokenizer": to_path(config.tokenizer_path)}
    for kind, folder in found.items():
        artefact.read_manifest(folder, kind)
    inputs.check_inputs(config)
    check_checkpoint_evaluation(config)
    return list(found.values())
