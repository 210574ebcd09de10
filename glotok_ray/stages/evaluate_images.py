"""Evaluation on an actor pool: blocks of images are measured by actors, and metrics computed from all of them.

What is measured lies in the output folder's `parts/` until the end, so a killed job goes on where it was, and the
driver's memory does not grow with the images.
Read next: glotok_ray/evaluation/plan.py
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from glotok_ray import faults
from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import bound_settings, input_paths, to_dict, with_absolute_paths
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import DatasetInfo
from glotok_ray.evaluation.entries import Metrics, with_crops, with_samples
from glotok_ray.evaluation.extractors import (
    INCEPTION,
    Network,
    build_extractors,
    build_lpips,
    file_digests,
    networks_of,
)
from glotok_ray.evaluation.facts import with_facts
from glotok_ray.evaluation.files import (
    FOREIGN_SAMPLES,
)
from glotok_ray.evaluation.foreign_samples import (
    ForeignSamples,
    is_foreign,
    warn_of_few,
)
from glotok_ray.evaluation.inputs import (
    check_inputs,
    check_present_inputs,
    measured_images,
)
from glotok_ray.evaluation.kept_features import kept_networks
from glotok_ray.evaluation.metrics import metrics_of
from glotok_ray.evaluation.parts import PARTS_FOLDER
from glotok_ray.evaluation.plan import VALIDATION, plan
from glotok_ray.evaluation.reference import Reference, read_reference
from glotok_ray.evaluation.sample_inputs import Samples
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.evaluation.uniformity_metrics import tsne_draw
from glotok_ray.on_ray.tasks import run_at_once
from glotok_ray.stages.evaluation_images import write_kept_images
from glotok_ray.stages.image_measurement import measure_images
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.output import Output, Unfinished
from glotok_ray.storage.places import remove_tree, to_path

logger = logging.getLogger(__name__)

_SAMPLES_SHA256 = "samples_sha256"


@ownership.holding()
def run(config: EvaluateRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write metrics.json, grids and kept images; returns the manifest, with every metric's value
    under "metrics".

    With an empty samples_path only reconstructions are measured; with an empty tokenizer_path only
    samples.
    """
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    output.check_apart(to_path(config.output_path), input_paths(config).values(), fresh=fresh)
    # Before the output folder is begun: what does not fit must leave everything as it is.
    inputs = _read_inputs(config)
    settings = bound_settings(config) | inputs.digests
    # A finished evaluation needs no network; a wrong file must leave the folder as it is.
    is_finished = _is_finished(config, settings, inputs.folders, fresh=fresh)
    loaded = None if is_finished else _load(config, inputs)
    evaluation = output.begin(
        config.output_path,
        "evaluation",
        settings,
        inputs.folders,
        fresh=fresh,
        unfinished=Unfinished.SAME_ONLY,
    )
    # Again, where what was finished has been removed meanwhile.
    manifest = evaluation.finished or _evaluate(
        evaluation, config, inputs, loaded or _load(config, inputs)
    )
    remove_tree(evaluation.folder / PARTS_FOLDER, ignore_errors=True)
    return manifest


class _Inputs(NamedTuple):
    """What is known of an evaluation's inputs before anything is measured."""

    images: DatasetInfo
    """The facts of the validation shards."""
    samples: Samples | None
    folders: list[str]
    """Those that have manifests."""
    digests: dict[str, str]
    """sha256 of what lies in no such folder."""

    @property
    def foreign(self) -> ForeignSamples | None:
        """Samples of others, which have no manifest."""
        return self.samples.foreign if self.samples else None

    @property
    def foreign_text(self) -> str:
        """What the samples of others are, as a sentence."""
        return self.foreign.text(self.digests[_SAMPLES_SHA256]) if self.foreign else ""


class _Loaded(NamedTuple):
    """What single files gave: they lie in no folder whose manifest would know them."""

    networks: list[Network]
    reference: Reference | None


def _read_inputs(config: EvaluateRun) -> _Inputs:
    """Raises ValueError and ArtefactError for what does not fit."""
    check_inputs(config)
    present = check_present_inputs(config)
    is_others = bool(config.samples_path) and is_foreign(to_path(config.samples_path))
    paths = (
        config.tokenizer_path,
        config.data_path,
        "" if is_others else config.samples_path,
        config.codes_path,
        config.training_path,
        config.generator_path,
    )
    digests = file_digests(config)
    if present.samples and present.samples.foreign:
        digests[_SAMPLES_SHA256] = present.samples.foreign.sha256
    images = present.images or measured_images(config)  # or the reason why there are none
    return _Inputs(images, present.samples, [path for path in paths if path], digests)


def _load(config: EvaluateRun, inputs: _Inputs) -> _Loaded:
    """Read all files once here, where a wrong one costs no cluster time."""
    device = torch.device("cpu")
    networks = networks_of(build_extractors(config, device))
    build_lpips(config, device)  # for what it refuses
    reference = None
    if config.reference_path:
        (inception,) = (network for network in networks if network.key == INCEPTION)
        reference = read_reference(to_path(config.reference_path), inception)
    if inputs.foreign:
        warn_of_few(inputs.foreign, networks)
    return _Loaded(networks, reference)


def _evaluate(
    evaluation: Output, config: EvaluateRun, inputs: _Inputs, loaded: _Loaded
) -> dict[str, Any]:
    """Measure, write all files of the folder and finish it."""
    blocks, image_size = plan(config, inputs.samples)
    measured = measure_images(
        blocks,
        config,
        image_size,
        folder=evaluation.folder / PARTS_FOLDER,
        fingerprint=evaluation.fingerprint,
        kept=kept_networks(config, loaded.networks, blocks, image_size, inputs.digests),
    )
    faults.boundary("measured")
    metrics = _metrics(measured, config, image_size, inputs, loaded)
    write_kept_images(evaluation.folder, measured, config)
    artefact.write_json(evaluation.folder / "metrics.json", metrics)
    values = {name: entry["value"] for name, entry in metrics.items()}
    for name, value in values.items():
        logger.info("%s = %s", name, value)
    facts: dict[str, Any] = {FOREIGN_SAMPLES: inputs.foreign_text} if inputs.foreign else {}
    return evaluation.finish(
        exclude=(PARTS_FOLDER,),
        metrics=values,
        num_images=measured[VALIDATION].count,
        image_size=image_size,
        num_classes=len(inputs.images.classes),
        crops=crops_text(inputs.images),
        config=to_dict(config),
        **facts,
    )


def _metrics(
    measured: Mapping[str, MeasuredImages],
    config: EvaluateRun,
    image_size: int,
    inputs: _Inputs,
    loaded: _Loaded,
) -> Metrics:
    """All of metrics.json."""
    metrics = metrics_of(
        measured,
        config,
        image_size,
        lambda draws: run_at_once(tsne_draw, draws),
        num_classes=len(inputs.images.classes),
        networks=loaded.networks,
        reference=loaded.reference,
    )
    if inputs.foreign:
        metrics = with_samples(metrics, inputs.foreign_text, inputs.digests[_SAMPLES_SHA256])
    crops = crops_text(inputs.images)
    metrics = with_facts(
        metrics,
        config,
        loaded.networks,
        crops=crops,
        counts={kind: found.count for kind, found in measured.items()},
        digests=inputs.digests,
    )
    return with_crops(metrics, crops)


def _is_finished(
    config: EvaluateRun, settings: Mapping[str, Any], inputs: Sequence[str], *, fresh: bool
) -> bool:
    """Whether the folder holds this evaluation already; raises ArtefactError as `output.begin` does."""
    output.check_finished(inputs)
    paths = [to_path(path) for path in inputs]
    found = output.look(to_path(config.output_path), "evaluation", settings, paths, fresh=fresh)
    return found.finished is not None
