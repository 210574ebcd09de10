"""Codes of ImageNet's count as a generator's worker reads them by a thread of its own: rate, memory, the first batch.

    python -m benchmarks.code_rows
    python -m benchmarks.code_rows --folder runs/code_rows

Writes codes as `jobs.encode_images glotok_16k` leaves them (two views, 512 codes; shards of 1,000 images; the codes of
one shard are drawn at random and repeated: 2.6 GB), of all images and of a tenth. Then, each in a process of its own,
worker 0 of xar_b's 32 takes its micro batches of two epochs as fast as they come, as `scaling.decode_on` "auto" has it
for codes, from the dataset.json on; and a lone worker takes every row of one epoch. The bound is a loop of one thread
over whole files in order: pyarrow's reading, one view of each image, 32-bit integers. Files lie in the page cache.
"""

import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch

from benchmarks import measured
from glotok_ray.config import override
from glotok_ray.config.runs import XARRun
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.codes import CodeShard, write_code_dataset, write_code_shard
from glotok_ray.data.records import DATASET
from glotok_ray.recipes import train_generator, train_tokenizer
from glotok_ray.training.decode_place import decode_place, decode_threads
from glotok_ray.training.plan import division, row_plan, row_reader, run_plan
from glotok_ray.training.trainer_feed import trainer_batches

IMAGES, IMAGES_PER_SHARD, VIEWS = 1_281_167, 1000, 2
Case = tuple[Callable[[], dict[str, float]], Callable[[], dict[str, float]]]


def layout() -> CodeLayout:
    """Of the tokenizer whose codes xar_b learns."""
    return CodeLayout.glotok(train_tokenizer.glotok_16k().model)


def write_codes(folder: Path, num_images: int) -> None:
    """Codes of so many images, equal from shard to shard."""
    folder.mkdir(parents=True, exist_ok=True)
    full, rest = divmod(num_images, IMAGES_PER_SHARD)
    first = _write_shard(folder / _name(0), IMAGES_PER_SHARD)
    shards = [first]
    for number in range(1, full):
        shutil.copyfile(folder / _name(0), folder / _name(number))
        info = dataclasses.replace(first.info, file=_name(number))
        shards.append(first._replace(info=info))
    if rest:
        shards.append(_write_shard(folder / _name(full), rest))
    write_code_dataset(
        folder,
        shards,
        layout(),
        num_views=VIEWS,
        classes=[str(number) for number in range(1000)],
        tokenizer_sha256="",
        details={"views": "center_flip"},
    )


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _write_shard(path: Path, images: int) -> CodeShard:
    draw = np.random.default_rng(0)
    codes = {
        column.name: draw.integers(
            column.num_codes, size=(images * VIEWS, column.num_positions)
        ).astype(column.dtype)
        for column in layout().columns
    }
    keys = [f"n01440764/n01440764_{number}.JPEG" for number in range(images)]
    return write_code_shard(path, keys, draw.integers(1000, size=images), codes, layout())


def recipe(folder: Path, *, alone: bool) -> XARRun:
    """xar_b on these codes, or with `alone` the one worker that its micro batches would have."""
    changes: dict[str, Any] = {"data.train_path": str(folder), "data.num_train_images": 0}
    run = train_generator.xar_b()
    if alone:
        changes |= {
            "schedule.global_batch_size": run.schedule.micro_batch_size,
            "scaling.num_workers": 1,
        }
    return override(run, changes)


def feed_case(folder: Path, epochs: int, alone: bool) -> Case:
    """Seconds to the first micro batch and of each epoch, and what came."""
    found: dict[str, float] = {}

    def run() -> dict[str, float]:
        began = last = time.perf_counter()
        config = recipe(folder, alone=alone)
        if decode_place(config.scaling, 0.0, has_images=False) != "trainer":
            raise SystemExit("code_rows: codes are not read by the trainer")
        plan = run_plan(config)
        stream = trainer_batches(
            row_plan(config, plan),
            division(config),
            row_reader(config, plan),
            worker=0,
            steps=range(epochs * plan.steps_per_epoch),
            device=torch.device("cpu"),
            num_threads=decode_threads(config.scaling),
        )
        seconds, rows = {}, 0
        for count, batch in enumerate(stream, start=1):
            rows += len(batch.keys)
            now = time.perf_counter()
            if count == 1:
                seconds["first batch"] = now - began
            if count % plan.steps_per_epoch == 0:
                seconds[f"epoch {count // plan.steps_per_epoch}"] = now - last
                last = now
        found.update(rows=rows, images=plan.dataset.num_images)
        return seconds

    return run, lambda: found


def bound_case(folder: Path, most_files: int) -> Case:
    """Seconds of a loop over whole files, and the rows that it gave."""
    found: dict[str, float] = {}

    def run() -> dict[str, float]:
        began, rows = time.perf_counter(), 0
        columns = [column.name for column in layout().columns]
        for path in sorted(folder.glob("*.parquet"))[:most_files]:
            table = pyarrow.parquet.read_table(
                path, columns=["key", "label", *columns], use_threads=False
            )
            chosen = table.take(np.arange(0, len(table), VIEWS))
            for name in columns:
                codes = chosen[name].combine_chunks().flatten().to_numpy()
                torch.from_numpy(codes.astype(np.int32))
            rows += len(chosen)
        found["rows"] = rows
        return {"all": time.perf_counter() - began}

    return run, lambda: found


def main() -> None:
    """Write, measure and print."""
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES, help=f"({IMAGES:,})")
    parser.add_argument("--folder", type=Path, help="a folder that stays; the codes in it are used")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="code_rows_") as temporary:
        top = arguments.folder or Path(temporary)
        sizes = (arguments.images // 10, arguments.images)
        for size in sizes:
            if not (top / str(size) / DATASET).is_file():
                write_codes(top / str(size), size)
        _measure(top, sizes, as_json=arguments.json)


def _measure(top: Path, sizes: tuple[int, int], *, as_json: bool) -> None:
    tenth, whole = (top / str(size) for size in sizes)
    bound = measured.in_own_process(bound_case, whole, 200, repeats=1, warm_up=False)
    bound_rate = bound.facts["rows"] / bound.total
    cases = {
        f"worker 0 of 32, {sizes[0]:,} images": (tenth, 2, False),
        f"worker 0 of 32, {sizes[1]:,} images": (whole, 2, False),
        f"lone worker, {sizes[0]:,} images": (tenth, 1, True),
        f"lone worker, {sizes[1]:,} images": (whole, 1, True),
    }
    rows: list[list[str]] = []
    figures: dict[str, Any] = {"bound_rows_per_s": bound_rate}
    ratios: dict[str, float] = {}
    for name, (folder, epochs, alone) in cases.items():
        sys.stderr.write(f"{name}\n")
        found = measured.in_own_process(feed_case, folder, epochs, alone, repeats=1, warm_up=False)
        first = found.seconds["first batch"]
        rate = found.facts["rows"] / (found.total - first)
        figures[name] = {
            **found.seconds,
            "rows_per_s": rate,
            "idle_mib": found.idle_mib,
            "peak_mib": found.resident_mib,
        }
        ratios[f"rate over the bound's, {name}"] = rate / bound_rate
        rows.append(
            [
                name,
                f"{found.facts['rows']:,.0f}",
                f"{rate:,.0f}",
                f"{first:.2f}",
                f"{found.resident_mib - found.idle_mib:.0f}",
            ]
        )
    rows.append(["bound", f"{bound.facts['rows']:,.0f}", f"{bound_rate:,.0f}", "", ""])
    measured.answer(
        as_json=as_json,
        columns=("case", "rows", "rows/s", "first batch, s", "MiB beyond the imports"),
        rows=rows,
        figures=figures,
        ratios=ratios,
    )


if __name__ == "__main__":
    main()
