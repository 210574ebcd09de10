"""The stages of the quickstart in a row, each the very job that a user may run alone, under one output path.

Finished stages are recognised by their manifests. Read next: glotok_ray/recipes/quickstart.py
"""

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray import faults
from glotok_ray.config.overrides import to_dict, with_absolute_paths
from glotok_ray.config.quickstart import QuickstartRun
from glotok_ray.console import CONSOLE, NOTE
from glotok_ray.data.listing import SPLITS
from glotok_ray.data.records import read_dataset
from glotok_ray.recipes.quickstart import EXPECTED_SECONDS, SIDE_BY_SIDE, STAGES, chain
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
        "far": train_generator.run,
        "samples": sample_images.run,
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
    seconds = {name: 0 if name in there else expected[name] for name in titles}
    return StageLines(titles, seconds, SIDE_BY_SIDE)


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
    for names in _rows():
        row = [stage for stage in stages(adapted) if stage.name in names]
        there = [stage.name for stage in row if _finished_before(stage)]
        with lines.stage(*names, there=there):
            for name in names:
                faults.boundary("stage", _number(name))
            records += _run_row(row, lines)
        if names == ("data",):
            train, validation = (read_dataset(root / "data" / split) for split in SPLITS)
            adapted, said = fit_to_data(quickstart, train, validation)
            if said:
                logger.info("%s", said, extra=NOTE)
            artefact.write_json(root / "config.json", to_dict(adapted))
    return records


def _rows() -> list[tuple[str, ...]]:
    """The names of all stages in order, those together that may run side by side."""
    beside = {row[0]: row for row in SIDE_BY_SIDE}
    others = {name for row in SIDE_BY_SIDE for name in row[1:]}
    return [beside.get(name, (name,)) for name in STAGES if name not in others]


def _run_row(row: Sequence[Stage], lines: StageLines) -> list[dict[str, Any]]:
    """Run stages that need nothing of each other: side by side where the cluster has room for all."""
    if sum(not _finished_before(stage) for stage in row) > 1 and _have_room(row):
        from glotok_ray.on_ray.interruption import side_by_side

        return side_by_side([functools.partial(_run_beside, stage, lines) for stage in row])
    return [_run_stage(stage, lines) for stage in row]


def _have_room(row: Sequence[Stage]) -> bool:
    """Whether all of these trainings' workers find place at once, and a CPU is left that reads their data."""
    if any(stage.settings.launcher == "local" for stage in row):
        return False  # two in this process would draw from one stream of random numbers
    # Here, not above: Ray takes seconds to import, and --dry-run needs this module without it.
    from glotok_ray.on_ray import cluster, train

    cluster.connect()
    needed = Counter({"CPU": 1.0})
    for stage in row:
        needed.update(train.all_resources(stage.settings))
    return cluster.has(needed)


def _run_beside(stage: Stage, lines: StageLines) -> dict[str, Any]:
    """As `_run_stage`; an error is told at once, as the stage beside may go on for minutes."""
    try:
        return _run_stage(stage, lines)
    except Exception as error:
        logger.warning("%s failed: %s; the stage beside it goes on to its end", stage.name, error)
        raise


def _run_stage(stage: Stage, lines: StageLines) -> dict[str, Any]:
    label = f"stage {_number(stage.name)}/{len(STAGES) + 1} {stage.name}"
    had_manifest = _finished_before(stage)
    began = time.monotonic()
    stage.run(stage.settings)
    seconds = time.monotonic() - began
    lines.end(stage.name)
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


def _number(name: str) -> int:
    return 1 + list(STAGES).index(name)


def _finished_before(stage: Stage) -> bool:
    folder = stage.folder / "train" if stage.name == "data" else stage.folder
    return (folder / artefact.MANIFEST).is_file()
