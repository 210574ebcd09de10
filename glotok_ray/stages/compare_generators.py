"""Generators of any kind side by side: each sampled by sample_images, measured by evaluate_images and timed, in one
table with the paper's rows, and one grid.

Samples, evaluations and timings that are finished are recognised, so an interrupted comparison goes on. Read next:
glotok_ray/report/generator_table.py
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.generator_comparison import CompareGeneratorsRun
from glotok_ray.config.jobs import AnySampleRun, FARSampleRun, VARSampleRun, XARSampleRun
from glotok_ray.config.overrides import bound_settings, override, to_dict, with_absolute_paths
from glotok_ray.devices import chosen_device
from glotok_ray.evaluation import inputs
from glotok_ray.evaluation.extractors import file_digests
from glotok_ray.pretrained.generator import WEIGHTS_FILE, model_config, read_facts
from glotok_ray.recipes import table_2
from glotok_ray.recipes.sweep_parts import STATISTICS_FOLDER, VALUES_FOLDER, short_names
from glotok_ray.report import generator_table, grids
from glotok_ray.report.compared_folders import folders_there
from glotok_ray.report.generator_table import IMAGES_PER_SECOND, GeneratorRow
from glotok_ray.report.linked_models import read_generator, sampling_text
from glotok_ray.report.sample_rows import Entries, labels_and_protocols
from glotok_ray.sampling.images import ImageGenerator, default_sampler, network_evaluations
from glotok_ray.stages import evaluate_images, sample_images
from glotok_ray.stages.sample_images import IMAGES_FILE
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.output import Unfinished, check_finished
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

KIND = "generator_comparison"
TABLE_FILE, CSV_FILE, METRICS_FILE, GRID_FILE = (
    "table.md",
    "table.csv",
    "metrics.json",
    "samples.png",
)
_RUNS = {"xar": XARSampleRun, "far": FARSampleRun, "var": VARSampleRun, "rq": FARSampleRun}


class ComparedGenerator(NamedTuple):
    """One generator's parts."""

    name: str
    samples: AnySampleRun
    evaluation: EvaluateRun


@ownership.holding()
def run(config: CompareGeneratorsRun, *, fresh: bool = False) -> dict[str, Any]:
    """Sample, measure and time all; write table, CSV, metrics and grid; returns the manifest. Raises ArtefactError and
    ValueError for what cannot be compared, before anything is sampled.
    """
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    compared = compared_generators(config)
    check_inputs(config, compared)
    folders = [one.samples.generator_path for one in compared]
    # The order is the table's.
    weights = {"weights_sha256": [_digest(to_path(path)) for path in folders]}
    found = output.begin(
        config.output_path,
        KIND,
        bound_settings(config) | weights | file_digests(config.evaluation),
        [*folders, *_shards(config.evaluation)],
        fresh=fresh,
        unfinished=Unfinished.SAME_ONLY,
    )
    if found.finished is not None:
        return found.finished
    measured: dict[str, Entries] = {}
    rows = []
    for place, one in enumerate(compared, 1):
        logger.info("generator %d of %d: %s", place, len(compared), one.name)
        sample_images.run(one.samples)
        evaluate_images.run(one.evaluation)
        metrics = artefact.read_json(to_path(one.evaluation.output_path) / METRICS_FILE)
        measured[one.name] = metrics
        rows.append(_row(one, metrics, _timed(config, one, found.folder)))
    protocol = _protocol(config)
    _write(found.folder, config, compared, measured, rows, protocol)
    return found.finish(
        exclude=(VALUES_FOLDER, STATISTICS_FOLDER),
        rows=[vars(row) for row in rows],
        protocol=protocol,
        config=to_dict(config),
    )


def compared_generators(config: CompareGeneratorsRun) -> list[ComparedGenerator]:
    """Sampling and evaluation of each generator that is there; raises ArtefactError for folders that are none, that
    come twice, or that are missing and may not be.
    """
    paths = folders_there(
        config.generator_paths,
        "generator_paths",
        skip_missing=config.skip_missing,
        remedy="train one with jobs.train_generator, or import one with jobs.export_generator",
    )
    return [
        _parts(config, name, path) for name, path in zip(short_names(paths), paths, strict=True)
    ]


def _parts(config: CompareGeneratorsRun, name: str, path: str) -> ComparedGenerator:
    architecture, model = read_facts(to_path(path))["architecture"], model_config(to_path(path))
    top = to_path(config.output_path)
    samples = _RUNS[architecture](
        generator_path=path,
        output_path=str(top / VALUES_FOLDER / f"{name}_samples"),
        num_images=config.num_images,
        seed=config.seed,
        sampler=table_2.sampler_of(model, default_sampler(model)),
        pool=config.pool,
    )
    kept = config.evaluation.statistics_path or str(top / STATISTICS_FOLDER)
    changes = {
        "samples_path": samples.output_path,
        "output_path": str(top / VALUES_FOLDER / f"{name}_evaluation"),
        "statistics_path": kept,
    }
    return ComparedGenerator(name, samples, override(config.evaluation, changes))


def check_inputs(config: CompareGeneratorsRun, compared: Sequence[ComparedGenerator]) -> None:
    """Raise ArtefactError or ValueError for what would stop a generator later."""
    classes = {}
    for one in compared:
        classes[one.name] = sample_images.check_inputs(one.samples)["classes"]
        inputs.check_inputs(one.evaluation)
    check_finished(_shards(config.evaluation))
    for one in compared:
        side = sample_images.image_side(one.samples)
        path = one.samples.generator_path
        inputs.check_coming_samples(one.evaluation, classes[one.name], path, side)


def _shards(evaluation: EvaluateRun) -> list[str]:
    return [path for path in (evaluation.data_path, evaluation.training_path) if path]


def _digest(folder: Path) -> str:
    return artefact.stated_manifest(folder)["files"][WEIGHTS_FILE]["sha256"]


def _timed(config: CompareGeneratorsRun, one: ComparedGenerator, folder: Path) -> float | None:
    """Images per second of the second of two batches; measured once, and kept in the output folder."""
    if not config.timed_images:
        return None
    kept = folder / VALUES_FOLDER / f"{one.name}_speed.json"
    if kept.is_file():
        return artefact.read_json(kept)[IMAGES_PER_SECOND]
    device = chosen_device(use_gpu=config.use_gpu)
    run = one.samples
    generator = ImageGenerator.from_pretrained(run.generator_path, use_ema=run.sampler.use_ema).to(
        device
    )
    labels = [image % generator.num_classes for image in range(config.timed_images)]
    seconds = 0.0
    for _ in ("warms up", "counts"):
        started = time.perf_counter()
        # Its pixels come back to the host, so the device is waited for.
        generator.generate(labels, seed=config.seed, sampler=run.sampler)
        seconds = time.perf_counter() - started
    speed = config.timed_images / seconds
    artefact.write_json(kept, {IMAGES_PER_SECOND: speed})
    logger.info("%s: %.3g images per second on %s", one.name, speed, device)
    return speed


def _row(one: ComparedGenerator, metrics: Entries, speed: float | None) -> GeneratorRow:
    folder = to_path(one.samples.generator_path)
    linked, model = read_generator(folder), model_config(folder)
    recipe = table_2.recipe_of(linked.name, model)
    values = {name: entry["value"] for name, entry in metrics.items()}
    timed = {IMAGES_PER_SECOND: speed} if speed is not None else {}
    return GeneratorRow(
        name=one.name,
        architecture=linked.architecture,
        parameters=linked.parameters,
        tokens=linked.tokens,
        evaluations=network_evaluations(model, one.samples.sampler),
        sampling=sampling_text(to_dict(one.samples)),
        recipe=recipe,
        row=table_2.row_of(recipe),
        metrics=values | timed,
    )


def _protocol(config: CompareGeneratorsRun) -> str:
    """How all of the table was measured, in sentences."""
    place = "the GPU" if config.use_gpu and torch.cuda.is_available() else "the CPU"
    speed = (
        f" Speeds are images per second, decoding included, in a batch of {config.timed_images} on {place}."
        if config.timed_images
        else ""
    )
    return (
        f"All rows: {config.num_images:,} images each, image i of class i mod the number of classes, by seed "
        f"{config.seed}, each at the sampling settings of its recipe, or at the defaults of its kind where none has "
        f"its model; metrics against the same validation crops.{speed} The protocol of each metric is in "
        f"{METRICS_FILE}."
    )


def _write(
    folder: Path,
    config: CompareGeneratorsRun,
    compared: Sequence[ComparedGenerator],
    measured: Mapping[str, Entries],
    rows: Sequence[GeneratorRow],
    protocol: str,
) -> None:
    title = "Generators under one protocol"
    facts = labels_and_protocols(measured)
    labels = facts["labels"]
    text = generator_table.markdown(rows, labels, title=title, protocol=protocol)
    (folder / TABLE_FILE).write_text(text, encoding="utf-8")
    (folder / CSV_FILE).write_text(generator_table.comma_separated(rows, labels), encoding="utf-8")
    artefact.write_json(
        folder / METRICS_FILE,
        {"protocol": protocol, "rows": [vars(row) for row in rows], **facts},
    )
    shown = [_first_images(one, config.shown_images) for one in compared]
    side = max(images.shape[1] for images in shown)
    grids.write_grid(
        folder / GRID_FILE,
        np.concatenate([grids.resized(images, side) for images in shown]),
        columns=len(shown[0]),
        row_labels=[one.name for one in compared],
        title=title,
    )


def _first_images(one: ComparedGenerator, count: int) -> np.ndarray:
    with np.load(at_hand(to_path(one.samples.output_path) / IMAGES_FILE)) as stored:
        return stored["arr_0"][:count]
