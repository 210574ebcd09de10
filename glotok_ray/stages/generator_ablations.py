"""The ablations of xAR in one command: one training per row of its tables, each sampled and measured alike.

Rows are trained one after another, since each takes all workers. Every part recognises finished work, so an interrupted
command goes on. Read next: glotok_ray/recipes/generator_ablations.py
"""

import functools
import itertools
import logging
from pathlib import Path
from typing import Any

import pandas

from glotok_ray import faults
from glotok_ray.config.jobs import EvaluateRun, XARSampleRun
from glotok_ray.config.overrides import bound_settings, override, with_absolute_paths
from glotok_ray.config.runs import XARRun
from glotok_ray.config.sweeps import AblationRun
from glotok_ray.data.recorded import check_classes
from glotok_ray.data.records import read_dataset
from glotok_ray.evaluation import plan
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE, tokenizer_config
from glotok_ray.progress import ProgressLine
from glotok_ray.recipes.generator_ablations import ROWS
from glotok_ray.recipes.quickstart import quickstart as quickstart_recipe
from glotok_ray.report.generator_ablations import generator_ablation_tables
from glotok_ray.report.tokenizer_ablations import failed_rows
from glotok_ray.sampling.images import network_evaluations
from glotok_ray.stages import evaluate_images, quickstart, sample_images, train_generator
from glotok_ray.stages.failed_rows import FAILED, attempt, failed_of
from glotok_ray.stages.sweep_tokenizer import check_rows
from glotok_ray.storage import artefact, begun, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.inputs import fitting_codes
from glotok_ray.training.runs import run_plan

logger = logging.getLogger(__name__)

ROWS_FOLDER = "rows"
_INPUTS = ("data", "teacher", "tokenizer", "codes")


def chosen_rows(ablation: AblationRun) -> tuple[str, ...]:
    """The rows of this run; raises ValueError for an unknown or repeated name, with the known ones."""
    rows = ablation.rows or tuple(ROWS)
    check_rows(rows, ROWS)
    return rows


def row_parts(ablation: AblationRun, row: str) -> tuple[XARRun, XARSampleRun, EvaluateRun]:
    """Training, sampling and evaluation of one row, each in a folder of its own under rows/."""
    folder = Path(ablation.output_path) / ROWS_FOLDER
    trained, samples = str(folder / row), str(folder / f"{row}_samples")
    return (
        override(ROWS[row](ablation.generator), {"name": row, "output_path": str(folder)}),
        override(ablation.samples, {"generator_path": trained, "output_path": samples}),
        override(
            ablation.evaluation,
            {"samples_path": samples, "output_path": str(folder / f"{row}_evaluation")},
        ),
    )


@ownership.holding()
def run(ablation: AblationRun, *, fresh: bool = False) -> dict[str, Any]:
    """Run all rows and write results.csv and table.md; returns the manifest."""
    ablation = with_absolute_paths(ablation)
    folder = Path(ablation.output_path)
    rows = chosen_rows(ablation)
    # A field that a row cannot have ends the command here, not after hours of other rows.
    parts = [row_parts(ablation, row) for row in rows]
    if ablation.inputs == "quickstart":
        make_quickstart_inputs(ablation)
    inputs = _check_inputs(ablation, parts)
    fingerprint = artefact.fingerprint("ablations", bound_settings(ablation), inputs)
    if fresh:
        begun.set_aside(folder)
    manifest = artefact.finished(folder, "ablations", fingerprint)
    if manifest:
        failed = [row for row in manifest["failed"] if ablation.retry_failed]
        if set(rows) <= set(manifest["rows"]) - set(failed):
            logger.info("ablations: already finished: %s", folder)
            return manifest
        logger.info("joining the finished rows %s", ", ".join(manifest["rows"]))
        rows = tuple(row for row in ROWS if row in {*manifest["rows"], *rows})
    begun.go_on(folder, fingerprint)
    frame = pandas.DataFrame(_metrics_of_all(ablation, rows))
    failed = failed_of({str(row["row"]): row for row in frame.to_dict("records")}, "rows")
    if manifest:
        # Only now: a command that is killed before must find which rows were finished.
        begun.reopen(folder, fingerprint)
    frame.to_csv(folder / "results.csv", index=False)
    measured = {str(row["row"]): row for row in frame.to_dict("records")}
    table = generator_ablation_tables(measured, scale=describe_scale(*parts[0]))
    (folder / "table.md").write_text(table + failed_rows(failed) + "\n")
    return artefact.write_manifest(
        folder,
        "ablations",
        fingerprint,
        exclude=(ROWS_FOLDER,),
        rows=rows,
        failed=failed,
        table=str(folder / "table.md"),
    )


def make_quickstart_inputs(ablation: AblationRun) -> None:
    """The quickstart's shards, teacher, tokenizer and codes, in the folders where the rows read them, each where it is
    not finished yet.
    """
    folder = Path(ablation.generator.tokenizer_path).parent
    chained = quickstart.chain(override(quickstart_recipe(), {"output_path": str(folder)}))
    for name, given, made in (
        (
            "generator.tokenizer_path",
            ablation.generator.tokenizer_path,
            chained.generator.tokenizer_path,
        ),
        (
            "generator.data.train_path",
            ablation.generator.data.train_path,
            chained.codes.output_path,
        ),
        ("evaluation.data_path", ablation.evaluation.data_path, chained.evaluation.data_path),
    ):
        if Path(given) != Path(made):
            raise ArtefactError(
                f'{name} = {given!r}: with inputs = "quickstart" it must be {made!r}, beside the tokenizer; correct '
                "it, or give inputs of your own and --inputs given"
            )
    for stage in quickstart.stages(chained):
        if stage.name in _INPUTS and not _is_finished(stage):
            logger.info("quickstart's %s: %s", stage.name, stage.title)
            stage.run(stage.settings)


def _is_finished(stage: quickstart.Stage) -> bool:
    # Shards are written as two folders, each with a manifest of its own.
    folders = [stage.folder / part for part in ("train", "validation")]
    wanted = folders if stage.name == "data" else [stage.folder]
    return all((folder / artefact.MANIFEST).is_file() for folder in wanted)


def describe_scale(training: XARRun, samples: XARSampleRun, evaluation: EvaluateRun) -> str:
    """The size of a row in words."""
    model, schedule = training.model, training.schedule
    steps = run_plan(training).last_step
    return (
        f"{steps} steps of {schedule.global_batch_size} images, width {model.width}, depth {model.depth}, "
        f"{model.grid_size} x {model.grid_size} positions; {samples.num_images} samples in "
        f"{samples.sampler.num_steps} steps per entity at guidance {samples.sampler.guidance_scale:g}, against "
        f"{evaluation.num_images or 'all'} validation images"
    )


def _check_inputs(
    ablation: AblationRun, parts: list[tuple[XARRun, XARSampleRun, EvaluateRun]]
) -> list[Path]:
    """The folders that all rows read; raises ArtefactError for what would stop one of them, hours later perhaps."""
    found = {
        "codes": ablation.generator.data.train_path,
        "tokenizer": ablation.generator.tokenizer_path,
        "shards": ablation.evaluation.data_path,
    }
    for kind, path in found.items():
        artefact.verify_once(Path(path), kind)
    for training, _, evaluation in parts:
        fitting_codes(training)
        plan.check_inputs(evaluation)
    evaluation = ablation.evaluation
    for field, path in (
        ("samples.tokenizer_path", ablation.samples.tokenizer_path),
        ("evaluation.tokenizer_path", evaluation.tokenizer_path),
    ):
        if path:
            _check_same_tokenizer(field, path, found["tokenizer"])
    if evaluation.codes_path:
        plan.baseline_codes(evaluation)
    # The samples are yet to come; their classes will be the codes', and their side the tokenizer's.
    images = plan.check_images(evaluation, tokenizer_config(Path(found["tokenizer"])))
    codes = read_dataset(Path(found["codes"]))
    check_classes(codes.classes, found["codes"], images.classes, evaluation.data_path)
    return [Path(path) for path in found.values()]


def _check_same_tokenizer(field: str, path: str, of_the_codes: str) -> None:
    artefact.read_manifest(Path(path), "tokenizer")
    weights = (Path(each) / WEIGHTS_FILE for each in (path, of_the_codes))
    if len({artefact.sha256_of(file) for file in weights}) > 1:
        raise ArtefactError(
            f"{field} = {path!r}: has other weights than generator.tokenizer_path = {of_the_codes!r}, whose codes the "
            "rows learn; give the same, or leave it empty"
        )


def _metrics_of_all(ablation: AblationRun, rows: tuple[str, ...]) -> list[dict[str, Any]]:
    measured = [Path(row_parts(ablation, row)[2].output_path) / artefact.MANIFEST for row in rows]
    finished = sum(1 for _ in itertools.takewhile(Path.is_file, measured))
    line = ProgressLine("ablations", len(rows), "rows", interval_s=0.0)
    # Rows that an earlier command finished take no time now, and must not shorten the time left.
    line.update(finished)
    metrics = []
    for number, row in enumerate(rows, start=1):
        faults.boundary("row", number)
        path = Path(ablation.output_path) / ROWS_FOLDER / f"{row}_failure.json"
        found = attempt(
            path, functools.partial(run_row, ablation, row), retry=ablation.retry_failed
        )
        metrics.append({"row": row, FAILED: "", **found})
        if number > finished:
            why = found.get(FAILED)
            shown = f"failed: {why}" if why else f"FD-EffNet {found['fd_effnet']:.4g}"
            line.update(number, f"{row}: {shown}")
    faults.boundary("row", len(rows) + 1)
    return metrics


def run_row(ablation: AblationRun, row: str) -> dict[str, Any]:
    """Train, sample and measure one row; returns its figures."""
    training, samples, evaluation = row_parts(ablation, row)
    logged = artefact.metrics_of(train_generator.run(training))
    sample_images.run(samples)
    distance = artefact.metrics_of(evaluate_images.run(evaluation))["samples_fd_effnet"]
    return {
        "row": row,
        "entity": training.model.entity,
        "num_entities": training.model.num_entities,
        "context": training.flow.context,
        # None is an undefined distance.
        "fd_effnet": float("nan") if distance is None else distance,
        "loss": logged.get("train/flow_matching"),
        "images_per_s": logged.get("time/images_per_s"),
        "evaluations_per_image": network_evaluations(training.model, samples.sampler),
    }
