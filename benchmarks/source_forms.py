"""The same images in five forms give the same shards, undisturbed and killed; and what sharding needs of memory.

    python -m benchmarks.source_forms
    python -m benchmarks.source_forms --images 2000 --smaller 500

A generated ImageNet of --images JPEGs (96 x 72 pixels, 100 classes) is written as class folders, the official tars,
WebDataset, Parquet and Kaggle's folders, and `jobs.shard_images` makes shards of each. Then each form is sharded again,
its driver is killed (SIGKILL) when a random share of the shards is written, and the job is called again; one form is
also killed right before its manifests. All shards must be equal byte by byte, and hold the images that were generated.
Peak memory of the driver and of the largest task is told at --smaller and at --images; at ImageNet's 1.28 million
images that of the driver alone, with a listing that is made up. Ten minutes on two cores (22 calls of the job); 0.7 GB
in --folder. Killed itself, it goes on behind the last form that it finished, when it is called again with one --folder.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import measured
from benchmarks.drill_progress import Progress, WrongAnswerError, once
from benchmarks.five_forms import Images, training_images, validation_images, write_five_forms
from benchmarks.sharding_driver import driver_case
from glotok_ray import faults
from glotok_ray.data.listing import SPLITS, VALIDATION_PREFIX
from glotok_ray.data.records import read_dataset, read_rows
from glotok_ray.data.written_shards import RECEIPTS

ROOT = Path(__file__).parents[1]
CLASSES, SIDES, ROWS_PER_SHARD = 100, (96, 72), 500
IMAGENET = 1_281_167
FORMS = ("folders", "tars", "webdataset", "parquet", "kaggle")
_LIMIT_S = 300.0
_SHARES = (0.2, 0.8)
_ARGUMENTS = ("images", "smaller", "seed")
# Looking for receipts is cheap; looking through all processes takes a third of a core at fifty times a second.
_LOOK_S, _MEMORY_EVERY_S = 0.02, 0.25


@dataclass
class Outcome:
    """One call of the job."""

    code: int
    seconds: float
    driver_mib: float
    """Largest resident memory of the driver."""
    task_mib: float
    """Largest private memory of a process of Ray that ran tasks."""
    log: str


def generated(images: int) -> tuple[Images, Images]:
    """Training and validation images, a twentieth of them the latter."""
    synsets = [f"n{index:08d}" for index in range(CLASSES)]
    per_class = images // CLASSES
    held_out = max(1, per_class // 20)
    return (
        training_images(per_class - held_out, synsets, SIDES),
        validation_images(held_out, synsets, SIDES),
    )


def job(fields: dict[str, str], output: Path) -> list[str]:
    """The command."""
    flags = {"validation_source": "", **fields, "output_path": str(output)}
    words = [
        word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    command = [sys.executable, "-m", "jobs.shard_images", "imagenet_256", *words]
    return [*command, "--rows-per-shard", str(ROWS_PER_SHARD)]


def receipts(output: Path) -> int:
    """Shards that are written."""
    return len(list(output.glob(f"*/{RECEIPTS}/*.json")))


def call(
    fields: dict[str, str], output: Path, address: str, *, kill_at: int = 0, fault: str = ""
) -> Outcome:
    """Run the job in a process of its own; with `kill_at` it is killed when so many shards are written."""
    environment = os.environ | {"RAY_ADDRESS": address, faults.VARIABLE: fault}
    log = output.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            job(fields, output), cwd=ROOT, env=environment, stdout=stream, stderr=stream
        )
    driver, task, measured_at = 0.0, 0.0, 0.0
    while process.poll() is None:
        now = time.monotonic()
        if now - measured_at > _MEMORY_EVERY_S:
            driver, task = max(driver, _resident_mib(process.pid)), max(task, *_task_mib(), 0.0)
            measured_at = now
        if now - started > _LIMIT_S or (kill_at and receipts(output) >= kill_at):
            process.kill()
        time.sleep(_LOOK_S)
    seconds = time.monotonic() - started
    return Outcome(process.returncode, seconds, driver, task, log.read_text())


def _resident_mib(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss / 2**20
    return 0.0


def _task_mib() -> list[float]:
    """Of this process's cluster; what they share with the object store is not counted."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::"):
                memory = process.memory_info()
                found.append((memory.rss - memory.shared) / 2**20)
    return found


def shards_of(output: Path) -> dict[str, Any]:
    """Classes, file names, rows and digests: equal ones mean equal keys, labels and bytes in one order."""
    found = {split: read_dataset(output / split, verify=True) for split in SPLITS}
    return {split: (dataset.classes, dataset.shards) for split, dataset in found.items()}


def stored_images(output: Path) -> dict[str, tuple[str, bytes]]:
    """Class and bytes by key."""
    return {
        row.key: (dataset.classes[row.label], row.image)
        for split in SPLITS
        for dataset in [read_dataset(output / split)]
        for shard in dataset.shards
        for row in read_rows(output / split / shard.file)
    }


def wanted_images(training: Images, validation: Images) -> dict[str, tuple[str, bytes]]:
    """What the shards must hold."""
    return {
        f"{prefix}{synset}/{name}": (synset, content)
        for prefix, images in (("", training), (VALIDATION_PREFIX, validation))
        for synset, files in images.items()
        for name, content in files.items()
    }


def check(condition: bool, text: str, outcome: Outcome | None = None) -> None:
    """End the drill where something is not as it must be."""
    if not condition:
        log = f"\n{outcome.log[-3000:]}" if outcome else ""
        raise WrongAnswerError(f"source_forms: {text}{log}")


@contextlib.contextmanager
def private_cluster() -> Iterator[str]:
    """The address of a cluster of this process, for all drivers: each would take seconds to start one."""
    import ray

    from glotok_ray.on_ray import cluster

    cluster.connect()
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def undisturbed(name: str, fields: dict[str, str], root: Path, address: str) -> Outcome:
    """The shards of one form."""
    outcome = call(fields, root / name, address)
    check(outcome.code == 0, f"{name}: exit code {outcome.code}", outcome)
    return outcome


def killed(
    name: str, fields: dict[str, str], output: Path, address: str, **how: Any
) -> dict[str, float]:
    """Kill the job and call it again; facts of both calls."""
    first = call(fields, output, address, **how)
    check(first.code == -9, f"{name}: exit code {first.code} where it was to be killed", first)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*/*.parquet")}
    written = receipts(output)
    second = call(fields, output, address)
    check(second.code == 0, f"{name}: exit code {second.code} after a kill", second)
    again = sum(path.stat().st_mtime_ns != stamp for path, stamp in kept.items())
    check(again <= len(kept) - written, f"{name}: {again} finished shards were written again")
    return {"kept": written, "seconds": first.seconds + second.seconds}


def sources(root: Path, images: int) -> tuple[dict[str, dict[str, str]], Any]:
    """The five forms of so many images, and what their shards must hold."""
    training, validation = generated(images)
    forms = write_five_forms(root, training, validation, per_archive=ROWS_PER_SHARD)
    return forms, wanted_images(training, validation)


def drill_form(
    name: str, forms: list[dict[str, dict[str, str]]], out: Path, address: str, moment: float
) -> tuple[Any, dict[str, Any]]:
    """Shards of one form, undisturbed; then killed at that share of them, and resumed: they must be equal."""
    smaller, whole = (
        undisturbed(f"{name}{kind}", each[name], out, address)
        for kind, each in zip(("_smaller", ""), forms, strict=True)
    )
    found = shards_of(out / name)
    total = sum(len(shards) for _, shards in found.values())
    kill_at = max(1, round(total * moment))
    facts = killed(name, forms[1][name], out / f"{name}_killed", address, kill_at=kill_at)
    check(shards_of(out / f"{name}_killed") == found, f"{name}: shards differ after a kill")
    return found, {
        "seconds": whole.seconds,
        "driver_mib": [smaller.driver_mib, whole.driver_mib],
        "task_mib": [smaller.task_mib, whole.task_mib],
        "shards": total,
        "kept_at_the_kill": facts["kept"],
        "killed_seconds": facts["seconds"],
    }


def drill(root: Path, arguments: Any) -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of the table and figures."""
    progress = Progress(
        root / "progress.json", {name: getattr(arguments, name) for name in _ARGUMENTS}
    )
    forms, wanted = once(root / "whole", lambda path: sources(path, arguments.images))
    smaller, _ = once(root / "smaller", lambda path: sources(path, arguments.smaller))
    expected: Any = None
    with private_cluster() as address:
        for name in arguments.forms:
            out = root / name
            if name in progress.figures:
                found = shards_of(out / name)
            else:
                shutil.rmtree(out, ignore_errors=True)
                # The same moment, whether forms before it were done by this process or not.
                moment = random.Random(f"{arguments.seed} {name}").uniform(*_SHARES)
                found, figures = drill_form(name, [smaller, forms], out, address, moment)
                progress.note(name, figures)
            if expected is None:
                expected = found
                stored = stored_images(out / name)
                check(stored == wanted, f"{name}: shards hold other images than were generated")
            check(found == expected, f"{name}: its shards differ from those of the first form")
        last, name = root / "before_manifest", arguments.forms[-1]
        shutil.rmtree(last, ignore_errors=True)
        killed(name, forms[name], last / name, address, fault="kill:manifest:step=0")
        check(shards_of(last / name) == expected, "shards differ after a kill before the manifest")
    figures = {name: progress.figures[name] for name in arguments.forms}
    return [_row(name, each) for name, each in figures.items()], figures


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    return [
        name,
        f"{figures['seconds']:.0f}",
        *(f"{value:.0f}" for value in figures["driver_mib"]),
        *(f"{value:.0f}" for value in figures["task_mib"]),
        f"{figures['kept_at_the_kill']} of {figures['shards']}",
        f"{figures['killed_seconds']:.0f}",
    ]


def main() -> None:
    """Run the drill; exit code 1 and one line where shards differ."""
    parser = measured.parser("Five source forms, killed and undisturbed, give equal shards.")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--smaller", type=int, default=2_000, help="for the growth of memory")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="where its files lie, so that it can go on; they are removed at the end",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="source_forms_") as temporary:
        root = (arguments.folder or Path(temporary)).absolute() / "source_forms"
        root.mkdir(parents=True, exist_ok=True)
        rows, figures = drill(root, arguments)
        shutil.rmtree(root)
    driver = measured.in_own_process(driver_case, IMAGENET, repeats=1, warm_up=False)
    figures["driver_of_imagenet"] = {
        "peak_mib": driver.resident_mib,
        "idle_mib": driver.idle_mib,
        "seconds": driver.total,
        **driver.facts,
    }
    sizes = [f"{arguments.smaller:,}", f"{arguments.images:,}"]
    measured.answer(
        as_json=arguments.json,
        columns=[
            "form",
            "s",
            *(f"driver MiB, {size}" for size in sizes),
            *(f"task MiB, {size}" for size in sizes),
            "shards kept at the kill",
            "s, killed and resumed",
        ],
        rows=rows,
        figures=figures,
        ratios={f"driver's MiB with {IMAGENET:,} listed images": driver.resident_mib},
    )


if __name__ == "__main__":
    main()
