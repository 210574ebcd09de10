"""Evaluation on an actor pool: blocks of images are measured by actors, and metrics computed from all of them.

What is measured lies in the output folder's `parts/` until the end, so a killed job goes on where it was, and the
driver's memory does not grow with the images.
Read next: glotok_ray/evaluation/plan.py
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from glotok_ray import faults
from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import bound_settings, to_dict, with_absolute_paths
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import DatasetInfo
from glotok_ray.evaluation.array_names import retention_pictures
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
    BASELINES,
    CODE_COUNTS_FILE,
    FOREIGN_SAMPLES,
    RECONSTRUCTIONS_FILE,
    RETENTION_FILE,
)
from glotok_ray.evaluation.foreign_samples import (
    ForeignSamples,
    is_foreign,
    read_foreign,
    warn_of_few,
)
from glotok_ray.evaluation.inputs import (
    check_inputs,
    check_present_inputs,
    measured_images,
    measured_tokenizer,
)
from glotok_ray.evaluation.kept_features import kept_networks
from glotok_ray.evaluation.metrics import metrics_of
from glotok_ray.evaluation.parts import PARTS_FOLDER
from glotok_ray.evaluation.plan import VALIDATION, plan
from glotok_ray.evaluation.reference import Reference, read_reference
from glotok_ray.evaluation.retention import has_retention
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.evaluation.uniformity_metrics import tsne_draw
from glotok_ray.metrics.codebook import count_blocks
from glotok_ray.on_ray.tasks import run_at_once
from glotok_ray.report import grids
from glotok_ray.stages.image_measurement import measure_images
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.output import Unfinished
from glotok_ray.storage.places import remove_tree, to_path, writing

logger = logging.getLogger(__name__)

_GRID_COLUMNS = 8


@ownership.holding()
def run(config: EvaluateRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write metrics.json, grids and kept images; returns the manifest, with every metric's value
    under "metrics".

    With an empty samples_path only reconstructions are measured; with an empty tokenizer_path only
    samples.
    """
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    check_inputs(config)
    # Before the output folder is begun: what does not fit must leave everything as it is.
    check_present_inputs(config)
    images = measured_images(config)
    foreign = _foreign_samples(config)
    digests = file_digests(config) | ({"samples_sha256": foreign.sha256} if foreign else {})
    paths = (
        config.tokenizer_path,
        config.data_path,
        "" if foreign else config.samples_path,
        config.codes_path,
        config.training_path,
        config.generator_path,
    )
    inputs, settings = [path for path in paths if path], bound_settings(config) | digests
    # A finished evaluation needs no network; a wrong file must leave the folder as it is.
    loaded = None if _is_finished(config, settings, inputs, fresh=fresh) else _load(config, foreign)
    evaluation = output.begin(
        config.output_path,
        "evaluation",
        settings,
        inputs,
        fresh=fresh,
        unfinished=Unfinished.SAME_ONLY,
    )
    parts_folder = evaluation.folder / PARTS_FOLDER
    if evaluation.finished is not None:
        remove_tree(parts_folder, ignore_errors=True)
        return evaluation.finished
    # Again, where what was finished has been removed meanwhile.
    loaded = loaded or _load(config, foreign)
    blocks, image_size = plan(config)
    measured = measure_images(
        blocks,
        config,
        image_size,
        folder=parts_folder,
        fingerprint=evaluation.fingerprint,
        kept=kept_networks(config, loaded.networks, blocks, image_size),
    )
    faults.boundary("measured")
    metrics = _metrics(measured, config, image_size, images, loaded, foreign)
    _write_images(evaluation.folder, measured)
    _write_retention(evaluation.folder, measured, config)
    _write_counts(evaluation.folder, measured, config)
    artefact.write_json(evaluation.folder / "metrics.json", metrics)
    for name, entry in metrics.items():
        logger.info("%s = %s", name, entry["value"])
    values = {name: entry["value"] for name, entry in metrics.items()}
    facts: dict[str, Any] = {FOREIGN_SAMPLES: foreign.text} if foreign else {}
    manifest = evaluation.finish(
        exclude=(PARTS_FOLDER,),
        metrics=values,
        num_images=measured[VALIDATION].count,
        image_size=image_size,
        num_classes=len(images.classes),
        crops=crops_text(images),
        config=to_dict(config),
        **facts,
    )
    remove_tree(parts_folder, ignore_errors=True)
    return manifest


class _Loaded(NamedTuple):
    """What single files gave: they lie in no folder whose manifest would know them."""

    networks: list[Network]
    reference: Reference | None


class _Foreign(NamedTuple):
    """Samples of others, which have no manifest."""

    samples: ForeignSamples
    sha256: str
    """Of the file, or of the list of a folder's files and their digests."""

    @property
    def text(self) -> str:
        """What they are, as a sentence."""
        return self.samples.text(self.sha256)


def _foreign_samples(config: EvaluateRun) -> _Foreign | None:
    """None where samples are ours, or where there are none."""
    if not config.samples_path or not is_foreign(to_path(config.samples_path)):
        return None
    samples = read_foreign(to_path(config.samples_path))
    return _Foreign(samples, samples.sha256)


def _load(config: EvaluateRun, foreign: _Foreign | None) -> _Loaded:
    """Read all files once here, where a wrong one costs no cluster time."""
    device = torch.device("cpu")
    networks = networks_of(build_extractors(config, device))
    build_lpips(config, device)  # for what it refuses
    reference = None
    if config.reference_path:
        (inception,) = (network for network in networks if network.key == INCEPTION)
        reference = read_reference(to_path(config.reference_path), inception)
    if foreign:
        warn_of_few(foreign.samples, networks)
    return _Loaded(networks, reference)


def _metrics(
    measured: Mapping[str, MeasuredImages],
    config: EvaluateRun,
    image_size: int,
    images: DatasetInfo,
    loaded: _Loaded,
    foreign: _Foreign | None,
) -> Metrics:
    """All of metrics.json; `images` are the facts of the validation shards."""
    metrics = metrics_of(
        measured,
        config,
        image_size,
        lambda draws: run_at_once(tsne_draw, draws),
        num_classes=len(images.classes),
        networks=loaded.networks,
        reference=loaded.reference,
    )
    if foreign:
        metrics = with_samples(metrics, foreign.text, foreign.sha256)
    crops = crops_text(images)
    counts = {kind: found.count for kind, found in measured.items()}
    metrics = with_facts(metrics, config, loaded.networks, crops=crops, counts=counts)
    return with_crops(metrics, crops)


def _is_finished(
    config: EvaluateRun, settings: Mapping[str, Any], inputs: Sequence[str], *, fresh: bool
) -> bool:
    """Whether the folder holds this evaluation already; raises ArtefactError as `output.begin` does."""
    output.check_finished(inputs)
    paths = [to_path(path) for path in inputs]
    found = output.look(to_path(config.output_path), "evaluation", settings, paths, fresh=fresh)
    return found.finished is not None


def _write_images(folder: Path, measured: Mapping[str, MeasuredImages]) -> None:
    """Grids for people, arrays for the report."""
    validation = measured[VALIDATION]
    if "inputs" in validation:
        inputs, reconstructions = map(validation.pictures, ("inputs", "reconstructions"))
        with writing(folder / RECONSTRUCTIONS_FILE) as local:
            np.savez(local, inputs=inputs, reconstructions=reconstructions)
        pairs = grids.side_by_side(inputs, reconstructions)
        grids.write_grid(
            folder / "reconstructions.png", pairs, columns=4, title="input | reconstruction"
        )
    baselines = {name: measured[name].pictures("images") for name in BASELINES if name in measured}
    for name, images in baselines.items():
        with writing(folder / f"{name}.npz") as local:
            np.savez(local, images=images)
    if baselines:
        rows = [images[:_GRID_COLUMNS] for images in baselines.values()]
        labels = [name.removeprefix("baseline_") for name in baselines]
        grids.write_grid(
            folder / "baselines.png", np.concatenate(rows), columns=len(rows[0]), row_labels=labels
        )


def _write_retention(
    folder: Path, measured: Mapping[str, MeasuredImages], config: EvaluateRun
) -> None:
    """Kept crops from both codebooks and from each alone, for the report."""
    model = measured_tokenizer(config)
    if model and has_retention(model):
        pictures = measured[VALIDATION].pictures
        alone = {name: pictures(retention_pictures(name)) for name in model.names}
        whole = {"inputs": pictures("inputs"), "both": pictures("reconstructions")}
        with writing(folder / RETENTION_FILE) as local:
            np.savez(local, **(alone | whole))  # type: ignore[arg-type]


def _write_counts(
    folder: Path, measured: Mapping[str, MeasuredImages], config: EvaluateRun
) -> None:
    """Occurrences of every code in the validation crops, unused codes included."""
    model = measured_tokenizer(config)
    if model:
        codes = measured[VALIDATION].blocks
        counts = {
            codebook.name: count_blocks(codes(codebook.name), codebook.size)
            for codebook in model.codebooks
        }
        with writing(folder / CODE_COUNTS_FILE) as local:
            np.savez(local, **counts)  # type: ignore[arg-type]
