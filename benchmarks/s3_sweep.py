"""A search of a tokenizer with its inputs and its folder in an object store, killed twice: the results of local disk.

    python -m benchmarks.s3_drill --sweep

Two trials on a grid and their finalists, by the very command that a user runs, with a local folder as storage root and
with one of moto's server. There the command's process is killed when a trial has its first evaluation, and again when a
finalist trains. Exit code 0 when the tables, less times, and the best recipe are the same, and the other files are
there. Read next: benchmarks/s3_drill.py
"""

import csv
import io
import logging
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.s3_drill import OUTPUT, TINY, DrillFailed, finish, start, when
from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import override, to_dict
from glotok_ray.config.search import WEIGHT, SearchField
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.recipes.quickstart import chain, quickstart
from glotok_ray.recipes.sweep_tokenizer import quickstart_reconstructions
from glotok_ray.storage import artefact
from glotok_ray.storage.places import copy_file, to_path
from glotok_ray.training.trials import TrialFiles

logger = logging.getLogger(__name__)

SWEEP = "runs/search"
_TABLES = ("results.csv", "finalists.csv")
_FILES = (*_TABLES, "table.md", "sweep.html", "sweep.png", "best_recipe.json")
# Times differ from run to run; one that was killed took more processes.
_UNEQUAL = ("images_per_s", "starts")
_ONE_PROCESS = {
    "launcher": "local",
    "scaling.num_workers": 1,
    "scaling.engine": "torch",
    "scaling.zero_stage": 0,
    "scaling.threads_per_worker": 1,
    "data.num_validation_images": 0,
}


def search() -> SweepRun:
    """Trainings of four steps at tiny size on the shards and the teacher of the chain."""
    parts = chain(override(quickstart(), dict(TINY)))
    measured = {
        "data_path": parts.evaluation.data_path,
        "feature_size": 32,
        "num_images": 10,
        "uniformity_repeats": 0,
    }
    return SweepRun(
        output_path=SWEEP,
        space=(SearchField(field=WEIGHT, values=(0.0, 0.1)),),
        num_trials=2,
        max_steps=4,
        evaluate_every_steps=2,
        num_finalists=1,
        finalist_seeds=(7,),
        tokenizer=override(parts.tokenizer, _ONE_PROCESS),
        evaluation=override(quickstart_reconstructions(), measured),
    )


def drill(folder: Path) -> dict[str, Any]:
    """Run both, and compare; raises DrillFailed."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    inputs, recipe, local = folder / "inputs.json", folder / "search.json", folder / "local"
    artefact.write_json(inputs, to_dict(override(quickstart(), dict(TINY))))
    artefact.write_json(recipe, to_dict(search()))
    log = folder / "local.log"
    arguments = ["--recipe", str(inputs), "--root", str(local), "--stages", "data", "teacher"]
    finish(start(["benchmarks.s3_drill", *arguments], log), log)
    began = time.monotonic()
    finish(_sweep(recipe, str(local), log), log)
    local_s = round(time.monotonic() - began, 1)
    with s3_server():
        root = to_path(f"s3://{BUCKET}/search")
        for path in (local / OUTPUT).rglob("*"):
            if path.is_file() and path.name != artefact.RECEIPT:  # of this disk
                copy_file(path, root / path.relative_to(local).as_posix())
        times = {"local_s": local_s, "s3_s": _killed_twice(recipe, root, folder / "s3.log")}
        wrong = differences(local, root)
        best = str(root / SWEEP / "best_recipe.json")
        finish(start(["jobs.train_tokenizer", best, "--dry-run"], log), log)
        objects = sum(1 for _ in root.rglob("*"))
    return {**times, "objects": objects, "compared": len(_FILES), "different": wrong}


def _sweep(recipe: Path, root: str, log: Path) -> subprocess.Popen[bytes]:
    return start(["jobs.sweep_tokenizer", str(recipe), "--storage-root", root], log)


def _killed_twice(recipe: Path, root: Path, log: Path) -> list[float]:
    """Seconds of each process."""
    files = TrialFiles(root / SWEEP / "trials")
    finalists = root / SWEEP / "finalists"

    def in_last_trial() -> bool:
        return bool(files.reports("trial_01"))

    def in_finalist() -> bool:
        return any(finalists.glob("*/metrics.jsonl"))

    seconds = []
    seen: Callable[[], bool]
    for seen, what in ((in_last_trial, "a trial's evaluation"), (in_finalist, "a finalist")):
        began = time.monotonic()
        process = _sweep(recipe, str(root), log)
        try:
            when(seen, process, what)
        finally:
            process.kill()
            process.wait()
        seconds.append(round(time.monotonic() - began, 1))
        logger.info("killed at %s", what)
    before = [record for record in files.records() if record.status]
    began = time.monotonic()
    process = _sweep(recipe, str(root), log)
    try:
        finish(process, log)
    finally:
        process.kill()
    if [files.record(record.trial.name) for record in before] != before:
        raise DrillFailed("a trial that had ended was changed")
    return [*seconds, round(time.monotonic() - began, 1)]


def differences(local: Path, remote: Path) -> list[str]:
    """What differs between the sweeps' folders below both roots."""
    ours, theirs = local / SWEEP, remote / SWEEP
    wrong = [f"{name}: is missing" for name in _FILES if not (theirs / name).is_file()]
    if wrong:
        return wrong
    wrong += [f"{name}: differs" for name in _TABLES if _rows(ours / name) != _rows(theirs / name)]
    recipes = [(root / SWEEP / "best_recipe.json").read_text() for root in (local, remote)]
    if recipes[0].replace(str(local), "") != recipes[1].replace(str(remote), ""):
        wrong.append("best_recipe.json: differs")
    found = [artefact.read_manifest(folder, "sweep") for folder in (ours, theirs)]
    if found[0]["files"].keys() != found[1]["files"].keys() or found[0]["best"] != found[1]["best"]:
        wrong.append("manifest.json: differs")
    return wrong


def _rows(path: Path) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(path.read_text()))
    return [{name: value for name, value in row.items() if name not in _UNEQUAL} for row in rows]
