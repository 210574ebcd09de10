"""A chain of jobs through an S3 server that goes away for a while, with a training that is killed: the same results.

    python -m benchmarks.s3_drill
    python -m benchmarks.s3_drill --away 30 --folder runs/s3_drill
    python -m benchmarks.s3_drill --sweep

Shards, teacher, tokenizer, codes, xAR generator, samples and evaluation of the quickstart, at tiny size, in a process
with a Ray cluster of its own: once with a local folder as storage root, and once with s3://glotok/drill on moto's
server (extra dev). There the tokenizer's training is killed after its first checkpoint and goes on in a new process; in
the middle of that the server is stopped for --away seconds. Exit code 0 when shards, codes, samples, weights and
metrics are the same. Needs 2 cores and about 4 GiB; writes times and differences as JSON to stdout. With --folder what
was finished locally is not done again. With --sweep it is a search of a tokenizer in place of the chain
(benchmarks/s3_sweep.py).
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.s3_server import BUCKET, S3Server, s3_server
from glotok_ray.config import QuickstartRun, from_dict, override, to_dict
from glotok_ray.recipes.quickstart import chain, quickstart
from glotok_ray.stages.quickstart import stages
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.places import to_path
from jobs import storage_root
from jobs.command_line import start_logging

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
CHAIN = ("data", "teacher", "tokenizer", "codes", "generator", "samples", "evaluation")
OUTPUT = "runs/drill"
_LOOK_S = 0.5
_LONGEST_S = 1800.0
# Times, memory and what a cache or the object store held at a moment differ from run to run.
_UNEQUAL = ("time/", "memory/", "checkpoint/", "data/cache_", "data/store_")
_SAME_FILES = (".parquet", ".npz", ".safetensors")

TINY = {
    "output_path": OUTPUT,
    "data.image_size": 32,
    "data.crops_per_class": 12,
    "data.validation_crops_per_class": 4,
    "data.rows_per_shard": 50,
    "teacher.network.input_size": 64,
    "teacher.kmeans.num_clusters": 24,
    "teacher.max_images": 60,
    "tokenizer.model.autoencoder.image_size": 32,
    "tokenizer.model.autoencoder.base_channels": 8,
    "tokenizer.model.autoencoder.channel_multipliers": (1, 2, 2),
    "tokenizer.model.autoencoder.norm_groups": 4,
    "tokenizer.model.autoencoder.latent_channels": 16,
    "tokenizer.model.adapter.num_heads": 2,
    "tokenizer.model.codebooks.1.size": 32,
    "tokenizer.model.codebooks.0.size": 48,
    "tokenizer.model.residual.width": 16,
    "tokenizer.model.residual.num_heads": 2,
    "tokenizer.loss.adversarial_start_step": 3,
    "tokenizer.data.num_train_images": 120,
    "tokenizer.data.num_validation_images": 16,
    "tokenizer.schedule.global_batch_size": 24,
    "tokenizer.schedule.micro_batch_size": 12,
    "tokenizer.schedule.epochs": 2,
    "tokenizer.schedule.log_every_steps": 1,
    "tokenizer.schedule.checkpoint_every_steps": 2,
    "generator.model.grid_size": 8,
    "generator.model.cell_size": 4,
    "generator.model.width": 32,
    "generator.model.depth": 2,
    "generator.model.num_heads": 2,
    "generator.data.num_train_images": 120,
    "generator.schedule.global_batch_size": 24,
    "generator.schedule.micro_batch_size": 12,
    "generator.schedule.epochs": 2,
    "generator.schedule.log_every_steps": 1,
    "samples.num_images": 20,
    "samples.sampler.num_steps": 3,
    "evaluation.feature_size": 64,
    "evaluation.uniformity_repeats": 1,
}


class DrillFailed(Exception):  # noqa: N818 - what failed is the drill
    """The drill saw what must not be."""


def run_chain(recipe: Path, root: str, names: Collection[str] = CHAIN) -> None:
    """Run the stages of the drill in this process."""
    config = from_dict(QuickstartRun, artefact.read_json(recipe))
    config = storage_root.located(chain(config), storage_root.chosen(root))
    with ownership.holding():
        for stage in stages(config):
            if stage.name in names:
                start = time.monotonic()
                stage.run(stage.settings)
                logger.info("%s: %.1f s: %s", stage.name, time.monotonic() - start, stage.folder)


def _start(recipe: Path, root: str, log: Path) -> subprocess.Popen[bytes]:
    return start(["benchmarks.s3_drill", "--recipe", str(recipe), "--root", root], log)


def start(module: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """A module of this repository with its arguments, in a process of its own that appends to `log`."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "GLOTOK_CACHE_PATH": str(log.parent / "cache")},
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for its end; raises DrillFailed where it failed."""
    code = process.wait(_LONGEST_S)
    if code:
        raise DrillFailed(f"exit code {code}: {log.read_text()[-3000:]}")


def when(seen: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    """Wait until it is seen; raises DrillFailed where the process ends before."""
    deadline = time.monotonic() + _LONGEST_S
    while not seen():
        if process.poll() is not None or time.monotonic() > deadline:
            raise DrillFailed(f"the run ended before {what}")
        time.sleep(_LOOK_S)


def _through_the_store(
    server: S3Server, recipe: Path, folder: Path, away_s: float
) -> dict[str, Any]:
    """The disturbed run; returns its times."""
    root, log = f"s3://{BUCKET}/drill", folder / "s3.log"
    tokenizer = to_path(f"{root}/{OUTPUT}/tokenizer")
    start = time.monotonic()
    process = _start(recipe, root, log)
    when(
        lambda: any((tokenizer / "checkpoints").glob("step-*/manifest.json")),
        process,
        "the tokenizer's first checkpoint",
    )
    process.kill()
    process.wait()
    killed = time.monotonic()
    process = _start(recipe, root, log)
    metrics = tokenizer / "metrics.jsonl"
    lines = len(metrics.read_text().splitlines())
    when(
        lambda: (
            len(metrics.read_text().splitlines()) > lines or (tokenizer / "manifest.json").exists()
        ),
        process,
        "it came further",
    )
    server.stop()
    stopped = time.monotonic()
    threading.Timer(away_s, server.start).start()
    finish(process, log)
    return {
        "first_s": round(killed - start, 1),
        "second_s": round(time.monotonic() - killed, 1),
        "away_s": away_s,
        "went_on_s_after_stop": round(time.monotonic() - stopped, 1),
    }


def differences(local: Path, remote: Path) -> tuple[list[str], int]:
    """The files and metrics that differ, and how many were compared."""
    wrong, count = [], 0
    for manifest in sorted(local.rglob(artefact.MANIFEST)):
        folder = manifest.parent.relative_to(local).as_posix()
        if "checkpoints" in folder:
            continue
        ours = artefact.read_json(manifest)["files"]
        theirs = artefact.read_json(remote / folder / artefact.MANIFEST)["files"]
        if ours.keys() != theirs.keys():
            wrong.append(f"{folder}: {sorted(ours.keys() ^ theirs.keys())}")
        for name in filter(lambda name: name.endswith(_SAME_FILES), ours.keys() & theirs.keys()):
            count += 1
            if ours[name]["sha256"] != theirs[name]["sha256"]:
                wrong.append(f"{folder}/{name}")
    for name in ("tokenizer", "generator", "evaluation"):
        ours, theirs = (_metrics(root / name / artefact.MANIFEST) for root in (local, remote))
        wrong += [
            f"{name}: {key}: {ours.get(key)} and {theirs.get(key)}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
        count += len(ours)
    return wrong, count


def _metrics(manifest: Path) -> dict[str, Any]:
    """The metrics of a result, without those of time and of memory."""
    found = artefact.metrics_of(artefact.read_json(manifest))
    return {name: value for name, value in found.items() if not name.startswith(_UNEQUAL)}


def drill(folder: Path, away_s: float) -> dict[str, Any]:
    """Run both, and compare; raises DrillFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.json"
    artefact.write_json(recipe, to_dict(override(quickstart(), dict(TINY))))
    start = time.monotonic()
    finish(_start(recipe, str(folder / "local"), folder / "local.log"), folder / "local.log")
    local_s = round(time.monotonic() - start, 1)
    with s3_server() as server:
        times = {"local_s": local_s, **_through_the_store(server, recipe, folder, away_s)}
        wrong, count = differences(
            folder / "local" / OUTPUT, to_path(f"s3://{BUCKET}/drill/{OUTPUT}")
        )
        objects = to_path(f"s3://{BUCKET}/drill").rglob("*")
        times["objects"] = sum(1 for _ in objects)
    return {**times, "compared": count, "different": wrong}


def main() -> int:
    """Run the drill; returns the exit code."""
    parser = argparse.ArgumentParser(description="The quickstart through an S3 server.")
    parser.add_argument("--away", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, help="an empty folder (else a temporary one)")
    parser.add_argument("--sweep", action="store_true", help="a search in place of the chain")
    parser.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--stages", nargs="+", default=CHAIN, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.recipe:
        start_logging()
        run_chain(flags.recipe, flags.root, flags.stages)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        if flags.sweep:
            from benchmarks import s3_sweep  # which is made of parts of this module

            found = s3_sweep.drill(folder)
        else:
            found = drill(folder, flags.away)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return int(bool(found["different"]))


if __name__ == "__main__":
    raise SystemExit(main())
