"""The stages of the quickstart in a row, each the very job that a user may run alone, under one output path.

Finished stages are recognised by their manifests. Read next: glotok_ray/recipes/quickstart.py
"""

import contextlib
import functools
import logging
import threading
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
from glotok_ray.data.sources import ImageSource
from glotok_ray.recipes.quickstart import EXPECTED_SECONDS, LANES, NEEDED, STAGES, chain
from glotok_ray.recipes.shard_images import quickstart as quickstart_data
from glotok_ray.report.inputs import collect, read_metrics
from glotok_ray.report.page import PICTURE_FILE, write_report
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
from glotok_ray.stages.quickstart_refusal import refusal
from glotok_ray.stages.quickstart_times import (
    Attempt,
    known_seconds,
    read_attempts,
    times_file,
    times_of,
    write_attempts,
)
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import OtherWorkError
from glotok_ray.storage.contents import Collection
from glotok_ray.storage.output import collection
from glotok_ray.storage.places import appending, to_path

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
_SETTINGS_FILE = "config.json"
_VERSIONS_FILE = "versions.json"  # of older versions
_STAGES_FILE = "stages.json"
_REPORT = "report"
_LOOK_S = 0.5
_PARTS = Collection(
    files=(
        artefact.LOG_FILE,
        _SETTINGS_FILE,
        _VERSIONS_FILE,
        _STAGES_FILE,
        REPORT_FILE,
        PICTURE_FILE,
        *map(times_file, STAGES),
    ),
    first="data",
    settled=_SETTINGS_FILE,
    last=REPORT_FILE,
)


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
    if fresh:  # a source that is refused must cost nothing that is there
        ImageSource.of(quickstart.data).shards()
    with (
        collection(root, _PARTS, fresh=fresh),
        appending(root / artefact.LOG_FILE) as log,
        CONSOLE.alone(log),
    ):
        with _lines(quickstart, known) as lines:
            records = _run_stages(quickstart, lines)
            with lines.stage(_REPORT) as elapsed:
                artefact.write_json(root / _STAGES_FILE, records)
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
    return StageLines(titles, seconds, LANES)


def _known_seconds(root: Path) -> dict[str, float]:
    """What the stages took in this output folder, or in the one that it replaced."""
    found: dict[str, float] = {}
    for folder in (root.with_name(f"{root.name}.previous"), root):
        for name in STAGES:
            seconds = known_seconds(folder / times_file(name))
            if seconds is not None:
                found[name] = seconds
    return found


def _run_stages(quickstart: QuickstartRun, lines: StageLines) -> list[dict[str, Any]]:
    """Run all stages; those behind the data are fitted to what the data turned out to be. Returns a record of each."""
    root = to_path(quickstart.output_path)
    data, *_ = stages(quickstart)
    records = {data.name: _run_stage(data, lines)}
    train, validation = (read_dataset(root / "data" / split) for split in SPLITS)
    adapted, said = fit_to_data(quickstart, train, validation)
    if said:
        logger.info("%s", said, extra=NOTE)
    settings_file = root / _SETTINGS_FILE
    was_there = settings_file.is_file()
    if not was_there:
        artefact.write_json(settings_file, to_dict(adapted))
    others = {stage.name: stage for stage in stages(adapted)[1:]}
    if _have_room(adapted):
        records |= _run_lanes(others, lines)
    else:
        lines.one_after_another()
        records |= {name: _run_stage(stage, lines) for name, stage in others.items()}
    if was_there:  # not before: what a stage refuses must not stand in the config of what is there
        artefact.write_json(settings_file, to_dict(adapted))
    return [records[name] for name in STAGES]


def _have_room(quickstart: QuickstartRun) -> bool:
    """Whether there are two stages to run, and the cluster has room for the trainings of both lanes at once, and a CPU
    more that reads their data.
    """
    if sum(not _finished_before(stage) for stage in stages(quickstart)) < 2:
        return False
    tokenizers = quickstart.tokenizer, quickstart.twin
    generators = quickstart.generator, quickstart.far
    if any(training.launcher == "local" for training in (*tokenizers, *generators)):
        return False  # two in this process would draw from one stream of random numbers
    # Here, not above: Ray takes seconds to import, and --dry-run needs this module without it.
    from glotok_ray.on_ray import cluster, train

    cluster.connect()
    for both in (tokenizers, generators):
        needed = Counter({"CPU": 1.0})
        for training in both:
            needed.update(train.all_resources(training))
            beside = training.checkpoint_evaluation
            if beside.every_steps:
                needed.update({"CPU": beside.num_cpus, "GPU": float(beside.use_gpu)})
        if not cluster.has(needed):
            return False
    return True


def _run_lanes(others: Mapping[str, Stage], lines: StageLines) -> dict[str, dict[str, Any]]:
    """Run the stages of all lanes side by side, behind those that are in no lane. Where a stage fails, those beside it
    go on to their end, and no other begins.
    """
    from glotok_ray.on_ray.interruption import side_by_side

    in_lanes = [name for lane in LANES for name in lane]
    records = {
        name: _run_stage(stage, lines) for name, stage in others.items() if name not in in_lanes
    }
    ended = {name: threading.Event() for name in in_lanes}
    is_over = threading.Event()

    def run_lane(lane: Sequence[str]) -> None:
        try:
            for name in lane:
                needed = ended[NEEDED[name]] if name in NEEDED else None
                while needed and not needed.wait(_LOOK_S) and not is_over.is_set():
                    ownership.check_held()
                if is_over.is_set():
                    return
                ownership.check_held()
                records[name] = _run_stage(others[name], lines)
                ended[name].set()
        except Exception as error:
            is_second = is_over.is_set()
            is_over.set()
            rest = "" if is_second else "; what runs beside it goes on to the end of its stage"
            logger.warning("%s%s", error, rest)
            raise

    side_by_side([functools.partial(run_lane, lane) for lane in LANES])
    return records


def _run_stage(stage: Stage, lines: StageLines) -> dict[str, Any]:
    """Run or recognise one stage; returns its record."""
    number = 1 + list(STAGES).index(stage.name)
    had_manifest = _finished_before(stage)
    began = time.time()
    is_measure = stage.name != "data" or stage.settings.source == quickstart_data().source
    times = stage.folder.parent / times_file(stage.name)
    # Of a result that was removed by hand nothing counts.
    before = [] if _has_made(times) else read_attempts(times)
    if not had_manifest:
        write_attempts(times, [*before, Attempt(None, began)])
    with lines.stage(stage.name, is_there=had_manifest, is_measure=is_measure) as elapsed:
        try:
            faults.boundary("stage", number)
            _run_or_refuse(stage)
        except BaseException:
            # Another job may have taken the folder over; and a full disk must not hide the cause.
            if not had_manifest and ownership.holds(times.parent):
                with contextlib.suppress(OSError):
                    write_attempts(times, [*before, Attempt(elapsed(), began)])
            raise
        seconds = elapsed()
    status = "recognised" if had_manifest else "made"
    label = f"stage {number}/{len(STAGES) + 1} {stage.name}"
    logger.info("%s: %s in %.0f s: %s", label, status, seconds, stage.folder)
    if not had_manifest:
        write_attempts(times, [*before, Attempt(seconds, began, is_made=True)])
    return {
        "stage": stage.name,
        "summary": stage.title,
        # A recognised stage has the times and versions of when it was made.
        **times_of(read_attempts(times)),
        "versions": _versions_of(stage),
        "status": status,
        "folder": str(stage.folder),
    }


def _has_made(times: Path) -> bool:
    attempts = read_attempts(times)
    return bool(attempts) and attempts[-1].is_made


def _run_or_refuse(stage: Stage) -> None:
    try:
        stage.run(stage.settings)
    except OtherWorkError as error:
        settings_file = stage.folder.parent / _SETTINGS_FILE
        raise refusal(error, stage.name, stage.settings, settings_file) from error


def _finished_before(stage: Stage) -> bool:
    return all(path.is_file() for path in _manifests(stage))


def _manifests(stage: Stage) -> list[Path]:
    folders = [stage.folder]
    if stage.name == "data":
        folders = [stage.folder / split for split in SPLITS]
    return [folder / artefact.MANIFEST for folder in folders]


def _versions_of(stage: Stage) -> dict[str, str]:
    """Of the packages and the commit that the stage was made with."""
    return artefact.read_json(_manifests(stage)[0]).get("versions", {})
