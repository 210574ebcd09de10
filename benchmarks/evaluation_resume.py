"""An evaluation of many images by one actor, and by two that are killed in between: the same digits.

    python -m benchmarks.evaluation_resume                 # 5,000 images, half an hour on two cores
    python -m benchmarks.evaluation_resume --images 200    # minutes

Half of the images are samples and half are validation crops, all of 256 x 256 pixels. They go through the whole graph
of Inception-v3 with a file of calibrated random weights, by the job's own command. The second evaluation has two
actors; its driver is killed when half of its parts are there, and the same command then goes on. The benchmark ends
with an error unless both metrics.json are equal and the second command found parts of the first.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import measured
from benchmarks.calibrated_inception import calibrated_images, write_calibrated_inception
from glotok_ray.data.forms import CROP
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.storage import artefact

SIDE, CLASSES = 256, 10
BATCH, BLOCKS_PER_UNIT = 16, 4
_CHUNK = 256
_NOISE = 12
_GONE_S = 120


def images_of(count: int, *, seed: int) -> np.ndarray:
    """Smooth images with noise on them, uint8 of shape (count, 256, 256, 3)."""
    found = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        generator = np.random.default_rng((seed, start))
        smooth = calibrated_images(stop - start, seed=seed * count + start, side=SIDE)
        noise = generator.integers(-_NOISE, _NOISE + 1, found[start:stop].shape, dtype=np.int16)
        found[start:stop] = (smooth.permute(0, 2, 3, 1).numpy() + noise).clip(0, 255)
    return found


def write_inputs(folder: Path, count: int) -> None:
    """The folders samples and real of so many images each, and the file inception.pth."""
    write_calibrated_inception(folder / "inception.pth")
    for seed, kind in enumerate(("samples", "shards"), 1):
        place = folder / kind
        place.mkdir()
        images = images_of(count, seed=seed)
        rows = [
            Row(f"{number:06d}", encode_png(image), number % CLASSES)
            for number, image in enumerate(images)
        ]
        facts: dict[str, Any] = {}
        if kind == "samples":
            np.savez(place / "samples.npz", arr_0=images)
            facts = {"num_images": count, "tokenizer_sha256": "0" * 64}
            shards = [write_shard(place / "samples.parquet", rows)]
        else:
            shards = [
                write_shard(place / f"part-{start // _CHUNK:05d}.parquet", rows[start:][:_CHUNK])
                for start in range(0, count, _CHUNK)
            ]
        classes = [f"class {number}" for number in range(CLASSES)]
        write_dataset(place, classes=classes, form=CROP, image_size=SIDE, shards=shards, details={})
        artefact.write_manifest(place, kind, **facts)


def command(folder: Path, output: Path, actors: int) -> list[str]:
    """The job's own command."""
    left_out = ("tokenizer", "codes", "training", "generator")
    return [
        *(sys.executable, "-m", "jobs.evaluate_images", "quickstart"),
        *(part for name in left_out for part in (f"--{name}-path", "")),
        *("--data-path", str(folder / "shards"), "--samples-path", str(folder / "samples")),
        *("--inception-path", str(folder / "inception.pth"), "--output-path", str(output)),
        *("--feature-size", "64", "--num-images", "0", "--pool.no-use-gpu"),
        *("--pool.num-actors", str(actors), "--pool.batch-size", str(BATCH)),
        *("--pool.cpus-per-actor", "1", "--pool.threads-per-actor", "1"),
    ]


def evaluate(folder: Path, output: Path, actors: int, *, kill_at: int = 0) -> float:
    """Seconds of one command. With `kill_at` its driver is killed as soon as so many parts lie there; returns when all
    processes that it started have gone.
    """
    log, started = output.with_suffix(".log"), time.monotonic()
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command(folder, output, actors),
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[1],
        )
    children: list[psutil.Process] = []
    while process.poll() is None:
        time.sleep(1)
        if kill_at and len(list((output / "parts").glob("*.parquet"))) >= kill_at:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
    seconds = time.monotonic() - started
    _, left = psutil.wait_procs(children, timeout=_GONE_S)
    if left:
        raise SystemExit(f"benchmark: {len(left)} processes outlived their driver by {_GONE_S} s")
    wanted = -signal.SIGKILL if kill_at else 0
    if process.returncode != wanted:
        tail = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"benchmark: exit code {process.returncode}, not {wanted}\n{tail}")
    return seconds


def main() -> None:
    """Write the images, evaluate them twice and print the times."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="evaluation_resume_", dir=arguments.folder))
    try:
        _measure(folder, arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, arguments: argparse.Namespace) -> None:
    count = arguments.images // 2
    written, _ = measured.seconds_of(lambda: write_inputs(folder, count))
    # Samples are measured in units of one block, crops in units of some.
    parts = -(-count // BATCH) + -(-count // (BATCH * BLOCKS_PER_UNIT))
    one, two = folder / "one_actor", folder / "two_actors"
    seconds = {
        "images written": written,
        "one actor": evaluate(folder, one, 1),
        "two actors, killed": evaluate(folder, two, 2, kill_at=parts // 2),
        "two actors, resumed": evaluate(folder, two, 2),
    }
    there = re.search(
        r"(\d+) of (\d+) parts are finished already", two.with_suffix(".log").read_text()
    )
    metrics = [json.loads((output / "metrics.json").read_text()) for output in (one, two)]
    if there is None or not 0 < int(there[1]) < int(there[2]):
        raise SystemExit("benchmark: the second command did not go on with the first one's parts")
    if metrics[0] != metrics[1]:
        unequal = [name for name in metrics[0] if metrics[0][name] != metrics[1].get(name)]
        raise SystemExit(f"benchmark: the metrics differ: {', '.join(unequal) or 'their names'}")
    values = {name: entry["value"] for name, entry in metrics[0].items()}
    measured.answer(
        as_json=arguments.json,
        columns=("step", "seconds"),
        rows=[[name, f"{found:.0f}"] for name, found in seconds.items()],
        figures={
            "images": 2 * count,
            "seconds": seconds,
            "parts_found_by_the_resumed": int(there[1]),
            "parts": int(there[2]),
            "metrics": values,
        },
        ratios={
            "equal metrics": len(values),
            "FID": values["samples_fid"],
            f"of {there[2]} parts were there after the kill": int(there[1]),
        },
    )


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser("An evaluation by one actor, and by two that are killed in between.")
    parser.add_argument(
        "--images", type=int, default=5000, help="samples and validation crops together"
    )
    parser.add_argument("--folder", help="where all of it lies meanwhile; the temporary folder")
    return parser


if __name__ == "__main__":
    main()
