"""The stages of the quickstart in a row, each the very job that a user may run alone, under one output path.

Finished stages are recognised by their manifests. Read next: glotok_ray/recipes/quickstart.py
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray import faults
from glotok_ray.config.overrides import override, to_dict, with_absolute_paths
from glotok_ray.config.runs import FARRun, GeneratorRun, TokenizerRun, XARRun
from glotok_ray.config.sweeps import QuickstartRun
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.recipes.quickstart import STAGES, chain
from glotok_ray.report.inputs import collect, read_metrics
from glotok_ray.report.page import write_report
from glotok_ray.stages import (
    build_teacher,
    encode_images,
    evaluate_images,
    sample_images,
    shard_images,
    train_generator,
    train_tokenizer,
)
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import collection

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Stage:
    """One stage: what it is called, what runs it and where its result lies."""

    name: str
    title: str
    run: Callable[..., dict[str, Any]]
    settings: Any
    folder: Path


def fit_to_data(quickstart: QuickstartRun, data: DatasetInfo) -> QuickstartRun:
    """Adapt counts that follow from the data: classes, clusters, batches, and epochs for an equal number of steps.

    The embedded photographs need no change; a user's folder may hold any number of images.
    """
    images, classes = data.num_images, len(data.classes)
    vectors = quickstart.teacher.vectors_per_image * min(
        images, quickstart.teacher.max_images or images
    )
    clusters = max(2, min(quickstart.teacher.kmeans.num_clusters, vectors // 4))
    changes: dict[str, Any] = {
        "generator.model.num_classes": classes,
        "far.model.num_classes": classes,
        "teacher.kmeans.num_clusters": clusters,
    }
    for name in ("tokenizer", "generator", "far"):
        run: TokenizerRun | XARRun | FARRun = getattr(quickstart, name)
        changes[f"{name}.data.num_train_images"] = images
        if images != run.data.num_train_images:
            changes |= {
                f"{name}.schedule.{key}": value for key, value in _fit_schedule(run, images).items()
            }
    return override(quickstart, changes)


def _fit_schedule(run: TokenizerRun | GeneratorRun, images: int) -> dict[str, int]:
    workers, schedule = run.scaling.num_workers, run.schedule
    if images < workers:
        raise ArtefactError(
            f"{images} training images cannot feed {workers} workers; bring more images, or "
            f"lower {run.name}.scaling.num_workers"
        )
    steps = schedule.steps_per_epoch(run.data.num_train_images or images) * schedule.epochs
    batch = min(schedule.global_batch_size, images // workers * workers)
    micro = schedule.micro_batch_size if batch == schedule.global_batch_size else batch // workers
    epochs = max(1, math.ceil(steps / (images // batch)))
    every = max(1, math.ceil(epochs / schedule.epochs * schedule.checkpoint_every_epochs))
    return {
        "global_batch_size": batch,
        "micro_batch_size": micro,
        "epochs": epochs,
        "checkpoint_every_epochs": every,
    }


def stages(quickstart: QuickstartRun) -> list[Stage]:
    """The stages before the report, in order."""
    root = Path(quickstart.output_path)
    functions: dict[str, Callable[..., dict[str, Any]]] = {
        "data": shard_images.run,
        "teacher": build_teacher.run,
        "tokenizer": train_tokenizer.run,
        "twin": train_tokenizer.run,
        "codes": encode_images.run,
        "generator": train_generator.run,
        "samples": sample_images.run,
        "far": train_generator.run,
        "far_samples": sample_images.run,
        "evaluation": evaluate_images.run,
        "far_evaluation": evaluate_images.run,
        "twin_evaluation": evaluate_images.run,
    }
    return [
        Stage(name, title, functions[name], getattr(quickstart, name), root / name)
        for name, title in STAGES.items()
    ]


@ownership.holding()
def run(quickstart: QuickstartRun, *, fresh: bool = False) -> dict[str, Any]:
    """Run or recognise every stage and write report.html; returns the stages, the metrics, both tokenizers' relation
    histograms (None where there is one alone) and the report's path.
    """
    quickstart = with_absolute_paths(chain(quickstart))
    root = Path(quickstart.output_path)
    report = root / REPORT_FILE
    with collection(root, fresh=fresh):
        records = _run_stages(quickstart)
        started = time.monotonic()
        artefact.write_json(root / "versions.json", artefact.versions())
        artefact.write_json(root / "stages.json", records)
        write_report(report, collect(root))
    twin = root / "twin" / "relation.json"
    count = len(records) + 1
    seconds = time.monotonic() - started
    logger.info("stage %d/%d report: written in %.0f s: %s", count, count, seconds, report)
    return {
        "stages": records,
        "metrics": read_metrics(root),
        "relation": artefact.read_json(root / "tokenizer" / "relation.json"),
        "twin_relation": artefact.read_json(twin) if twin.is_file() else None,
        "report": str(report),
    }


def _run_stages(quickstart: QuickstartRun) -> list[dict[str, Any]]:
    """Run all stages; those behind the data are fitted to what the data turned out to be."""
    root = Path(quickstart.output_path)
    records = []
    adapted = quickstart
    names = [stage.name for stage in stages(quickstart)]
    for number, name in enumerate(names, start=1):
        stage = next(item for item in stages(adapted) if item.name == name)
        faults.boundary("stage", number)
        records.append(_run_stage(f"stage {number}/{len(names) + 1} {name}", stage))
        if name == "data":
            adapted = fit_to_data(quickstart, read_dataset(root / "data" / "train"))
            artefact.write_json(root / "config.json", to_dict(adapted))
    return records


def _run_stage(label: str, stage: Stage) -> dict[str, Any]:
    had_manifest = _finished_before(stage)
    logger.info("%s: %s", label, stage.title)
    started = time.monotonic()
    stage.run(stage.settings)
    seconds = time.monotonic() - started
    status = "recognised" if had_manifest else "made"
    logger.info("%s: %s in %.0f s: %s", label, status, seconds, stage.folder)
    timing = stage.folder.parent / f".{stage.name}.seconds"
    if not had_manifest:
        timing.write_text(f"{seconds:.1f}")
    # A recognised stage reports the time that it took when it was made.
    made_in = float(timing.read_text()) if timing.is_file() else seconds
    return {
        "stage": stage.name,
        "summary": stage.title,
        "seconds": made_in,
        "status": status,
        "folder": str(stage.folder),
    }


def _finished_before(stage: Stage) -> bool:
    folder = stage.folder / "train" if stage.name == "data" else stage.folder
    return (folder / artefact.MANIFEST).is_file()
