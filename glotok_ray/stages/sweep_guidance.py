"""A guidance sweep: a generator's samples at several guidance scales, drawn by sample_images and measured by
evaluate_images, and the curve that they make.

Both stages recognise finished work and go on with unfinished work, so an interrupted sweep does too.
Read next: glotok_ray/stages/sample_images.py, glotok_ray/report/guidance.py
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glotok_ray.config.overrides import bound_settings, override, to_dict, with_absolute_paths
from glotok_ray.config.sweeps import AnyGuidanceRun
from glotok_ray.evaluation import inputs
from glotok_ray.evaluation.extractors import file_digests
from glotok_ray.recipes.sweep_parts import (
    STATISTICS_FOLDER,
    VALUES_FOLDER,
    GuidanceValue,
    chosen_metric,
    guidance_inputs,
    guidance_value,
)
from glotok_ray.report.guidance import Curve, best_value, write_curve
from glotok_ray.stages import evaluate_images, sample_images
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.output import Output, check_finished, look
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

_KIND = "guidance"


@ownership.holding()
def run(config: AnyGuidanceRun, *, fresh: bool = False) -> dict[str, Any]:
    """Sample and measure every value and write guidance.csv, guidance.json and guidance.png; returns the manifest."""
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    metric = chosen_metric(config)
    for scale in config.guidance_scales:
        inputs.check_inputs(guidance_value(config, scale).evaluation)
    paths = check_inputs(config)
    # Every value replaces it, so no other value of it may part a sweep from its finished values.
    settings = bound_settings(override(config, {"samples.sampler.guidance_scale": 1.0}))
    settings |= file_digests(config.evaluation)
    output = look(to_path(config.output_path), _KIND, settings, paths, fresh=fresh)
    scales = set(config.guidance_scales)
    if output.finished is not None:
        finished = set(output.finished["guidance_scales"])
        if scales <= finished and output.finished["best_by"] == metric:
            logger.info("already finished: %s", output.folder)
            return output.finished
        scales |= finished
    output.go_on(adopt=VALUES_FOLDER)
    measured = {
        scale: _measure(guidance_value(config, scale), scale, place, len(scales), metric)
        for place, scale in enumerate(sorted(scales), 1)
    }
    return _write(output, config, metric, measured)


def _measure(
    value: GuidanceValue, scale: float, place: int, count: int, metric: str
) -> dict[str, dict[str, Any]]:
    """The metrics of the samples at one value, with their protocols."""
    sample_images.run(value.samples)
    evaluate_images.run(value.evaluation)
    metrics = artefact.read_json(to_path(value.evaluation.output_path) / "metrics.json")
    logger.info(
        "guidance %g (%d of %d): %s = %s", scale, place, count, metric, metrics[metric]["value"]
    )
    return metrics


def _write(
    output: Output,
    config: AnyGuidanceRun,
    metric: str,
    measured: Mapping[float, Mapping[str, dict[str, Any]]],
) -> dict[str, Any]:
    curve = Curve(measured, metric)
    # Only now: a command that is killed before must find which values were finished.
    output.reopen()
    write_curve(curve, output.folder, sampler=to_dict(config.samples.sampler))
    return output.finish(
        exclude=(VALUES_FOLDER, STATISTICS_FOLDER),
        guidance_scales=sorted(measured),
        best_by=metric,
        best=best_value(curve),
        config=to_dict(config),
    )


def check_inputs(config: AnyGuidanceRun) -> list[Path]:
    """The folders that all values read; raises ArtefactError for what would stop a value later."""
    facts = sample_images.check_inputs(config.samples)
    evaluation = config.evaluation
    images = inputs.check_coming_samples(
        evaluation,
        facts["classes"],
        config.samples.generator_path,
        sample_images.image_side(config.samples),
    )
    if evaluation.generator_path:
        inputs.check_generator(evaluation, images)
    given = guidance_inputs(config)
    check_finished(given)
    return [to_path(path) for path in given]
