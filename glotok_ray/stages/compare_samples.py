"""Several sets of samples measured alike: each by evaluate_images, in a folder of its own, and a table of all.

What the feature networks make of real images is computed for the first set alone. Finished sets are recognised, so an
interrupted comparison goes on. Read next: glotok_ray/stages/evaluate_images.py, glotok_ray/report/samples_table.py
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import bound_settings, input_paths, to_dict, with_absolute_paths
from glotok_ray.evaluation.compared_samples import check_alike
from glotok_ray.recipes.sweep_parts import STATISTICS_FOLDER, VALUES_FOLDER, samples_evaluations
from glotok_ray.report.samples_table import COMPARISON, write_comparison
from glotok_ray.stages import evaluate_images
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.output import Output, check_apart, check_finished, look
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)


@ownership.holding()
def run(config: EvaluateRun, *, fresh: bool = False) -> dict[str, Any]:
    """Measure each of samples_paths and write samples.csv, samples.json and samples.md; returns the manifest.

    Sets that an earlier call measured are measured no more; the table holds those of this call.
    """
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    evaluations = samples_evaluations(config)
    check_apart(to_path(config.output_path), input_paths(config).values(), fresh=fresh)
    check_alike(evaluations.values())
    output = _look(config, fresh=fresh)
    output.go_on(adopt=VALUES_FOLDER)
    measured, metrics = {}, {}
    for place, (name, evaluation) in enumerate(evaluations.items(), 1):
        logger.info("samples %d of %d: %s", place, len(evaluations), evaluation.samples_path)
        measured[name] = evaluate_images.run(evaluation)
        metrics[name] = artefact.read_json(to_path(evaluation.output_path) / "metrics.json")
    sets = {name: _identity(manifest) for name, manifest in measured.items()}
    if output.finished is not None and output.finished["sets"] == sets:
        logger.info("already finished: %s", output.folder)
        ownership.finish(output.folder)
        return output.finished
    # Only now: a command that is killed before leaves the table of the call before.
    output.reopen()
    paths = {name: evaluation.samples_path for name, evaluation in evaluations.items()}
    write_comparison(metrics, output.folder, paths=paths)
    return output.finish(
        exclude=(VALUES_FOLDER, STATISTICS_FOLDER), sets=sets, config=to_dict(config)
    )


def _look(config: EvaluateRun, *, fresh: bool) -> Output:
    """The folder, bound to what all sets are measured with; the sets themselves may be others the next time."""
    not_read = ("samples_path", "tokenizer_path", "codes_path", "generator_path")
    shared = replace(config, samples_paths=(), **dict.fromkeys(not_read, ""))
    inputs = [path for path in (config.data_path, config.training_path) if path]
    check_finished(inputs)
    folder, settings = to_path(config.output_path), bound_settings(shared)
    return look(folder, COMPARISON, settings, [to_path(path) for path in inputs], fresh=fresh)


def _identity(manifest: Mapping[str, Any]) -> str:
    """Of one evaluation: its table is written again when it was measured again."""
    return manifest["files"]["metrics.json"]["sha256"]
