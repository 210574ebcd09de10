"""The stages of the quickstart in a row, each the very job that a user may run alone, under one output path.

Finished stages are recognised by their manifests. Read next: glotok_ray/recipes/quickstart.py
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray import faults
from glotok_ray.config.overrides import to_dict, with_absolute_paths
from glotok_ray.config.quickstart import QuickstartRun
from glotok_ray.console import CONSOLE, NOTE
from glotok_ray.data.listing import SPLITS
from glotok_ray.data.records import read_dataset
from glotok_ray.recipes.quickstart import EXPECTED_SECONDS, STAGES, chain
from glotok_ray.report.inputs import collect, read_metrics
from glotok_ray.report.page import write_report
from glotok_ray.stage_progress import StageLines
from glotok_ray.stages import (
    build_teacher,
    encode_images,
    evaluate_images,
    sample_images,
    shard_images,
    train_generator,
    train_tokenizer,
)
from glotok_ray.stages.quickstart_fit import fit_to_data
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.output import collection
from glotok_ray.storage.places import appending, to_path

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
_REPORT = "report"


@dataclass(frozen=True)
class Stage:
    """One stage: what it is called, what runs it and where its result lies."""

    name: str
    title: str
    run: Callable[..., dict[str, Any]]
    settings: Any
    folder: Path


def stages(quickstart: QuickstartRun) -> list[Stage]:
    """The stages before the report, in order."""
    root = to_path(quickstart.output_path)
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
    root = to_path(quickstart.output_path)
    report = root / REPORT_FILE
    known = _known_seconds(root)
    with (
        collection(root, fresh=fresh),
        appending(root / artefact.LOG_FILE) as log,
        CONSOLE.alone(log),
    ):
        with _lines(quickstart, known) as lines:
            records = _run_stages(quickstart, lines)
            with lines.stage(_REPORT) as elapsed:
                artefact.write_json(root / "versions.json", artefact.versions())
                artefact.write_json(root / "stages.json", records)
                write_report(report, collect(root))
        count = len(records) + 1
        logger.info("stage %d/%d report: written in %.0f s: %s", count, count, elapsed(), report)
    twin = root / "twin" / "relation.json"
    return {
        "stages": records,
        "metrics": read_metrics(root),
        "relation": artefact.read_json(root / "tokenizer" / "relation.json"),
        "twin_relation": artefact.read_json(twin) if twin.is_file() else None,
        "report": str(report),
    }


def _lines(quickstart: QuickstartRun, known: Mapping[str, float]) -> StageLines:
    """The lines of all stages; one whose result is there takes no time."""
    expected = {**EXPECTED_SECONDS, **known}
    there = {stage.name for stage in stages(quickstart) if _finished_before(stage)}
    titles = STAGES | {_REPORT: "one page of all results"}
    return StageLines(titles, {name: 0 if name in there else expected[name] for name in titles})


def _known_seconds(root: Path) -> dict[str, float]:
    """What the stages took in this output folder, or in the one that it replaced."""
    found: dict[str, float] = {}
    for folder in (root.with_name(f"{root.name}.previous"), root):
        for name in STAGES:
            timing = folder / f".{name}.seconds"
            if timing.is_file():
                found[name] = float(timing.read_text())
    return found


def _run_stages(quickstart: QuickstartRun, lines: StageLines) -> list[dict[str, Any]]:
    """Run all stages; those behind the data are fitted to what the data turned out to be."""
    root = to_path(quickstart.output_path)
    records = []
    adapted = quickstart
    names = [stage.name for stage in stages(quickstart)]
    for number, name in enumerate(names, start=1):
        stage = next(item for item in stages(adapted) if item.name == name)
        with lines.stage(name, is_there=_finished_before(stage)) as elapsed:
            faults.boundary("stage", number)
            records.append(_run_stage(f"stage {number}/{len(names) + 1} {name}", stage, elapsed))
        if name == "data":
            train, validation = (read_dataset(root / "data" / split) for split in SPLITS)
            adapted, said = fit_to_data(quickstart, train, validation)
            if said:
                logger.info("%s", said, extra=NOTE)
            artefact.write_json(root / "config.json", to_dict(adapted))
    return records


def _run_stage(label: str, stage: Stage, elapsed: Callable[[], float]) -> dict[str, Any]:
    had_manifest = _finished_before(stage)
    stage.run(stage.settings)
    seconds = elapsed()
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
