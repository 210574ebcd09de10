"""The driver's memory while an evaluation of many images becomes metrics: parts are written directly, by no network.

    python -m benchmarks.evaluation_memory
    python -m benchmarks.evaluation_memory --images 2000 20000

For each number of images, validation crops and their reconstructions get the three outputs of Inception (2048, 1008 and
2023 float32 numbers, made of noise) in parts as actors write them, 40 kB per image in --folder, which are removed
afterwards. A process of its own then takes the Frechet distances of two outputs, as the job does, and reads the third
once. The bound is 200 MiB between the first and the last number.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measured
from glotok_ray.evaluation.array_names import of_reconstructions
from glotok_ray.evaluation.parts import MeasuredBlock, PlannedPart, finished_parts, write_part
from glotok_ray.evaluation.plan import VALIDATION
from glotok_ray.evaluation.streams import open_measured
from glotok_ray.metrics.frechet import frechet_distance_of_summaries, summarize

IMAGES = (5_000, 50_000)
OUTPUTS = {"inception.pooled": 2048, "inception.logits": 1008, "inception.spatial": 2023}
BLOCK, BLOCKS_PER_UNIT = 64, 4
BOUND_MIB = 200


def planned(images: int) -> list[PlannedPart]:
    """The parts of so many images, in units of four blocks of 64."""
    size = BLOCK * BLOCKS_PER_UNIT
    return [
        PlannedPart(VALIDATION, start, min(start + size, images), "benchmark")
        for start in range(0, images, size)
    ]


def block_of(start: int, stop: int) -> MeasuredBlock:
    """Noise keyed by the first image, behind a ReLU as Inception's."""
    generator = np.random.default_rng(start)
    arrays: dict[str, Any] = {}
    for name, width in OUTPUTS.items():
        for stored, shift in ((name, 0.0), (of_reconstructions(name), 0.1)):
            values = generator.standard_normal((stop - start, width), dtype=np.float32)
            arrays[stored] = np.maximum(values + np.float32(shift), 0)
    return MeasuredBlock(VALIDATION, arrays, {})


def write_parts(folder: Path, parts: list[PlannedPart]) -> None:
    """Every part, as an actor writes it."""
    for part in parts:
        starts = range(part.start, part.stop, BLOCK)
        write_part(
            folder, part, [block_of(start, min(start + BLOCK, part.stop)) for start in starts]
        )


def metrics_case(folder: str, images: int) -> tuple[Any, Any]:
    """Seconds for finding the parts whole, and for the metrics of all images."""
    facts: dict[str, float] = {}

    def run() -> dict[str, float]:
        parts = planned(images)
        check, found = measured.seconds_of(lambda: finished_parts(Path(folder), parts))
        assert len(found) == len(parts)
        started = time.perf_counter()
        stored = open_measured(Path(folder), parts)[VALIDATION]
        for name in ("inception.pooled", "inception.spatial"):
            reference, other = (
                summarize(stored.blocks(each)) for each in (name, of_reconstructions(name))
            )
            facts[name] = frechet_distance_of_summaries(other, reference)
        rows = sum(len(block) for block in stored.blocks("inception.logits"))
        assert rows == stored.count == images
        return {"check": check, "metrics": time.perf_counter() - started}

    return run, lambda: facts


def main() -> None:
    """Measure each number of images and print what the process held."""
    arguments = _parser().parse_args()
    rows, figures = [], {}
    for images in arguments.images:
        folder = Path(tempfile.mkdtemp(prefix="evaluation_memory_", dir=arguments.folder))
        try:
            written, _ = measured.seconds_of(lambda: write_parts(folder, planned(images)))  # noqa: B023
            size = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
            case = measured.in_own_process(
                metrics_case, str(folder), images, repeats=1, warm_up=False
            )
        finally:
            shutil.rmtree(folder)
        figures[f"{images}"] = {
            "written_s": written,
            "disk_gib": size,
            "peak_mib": case.resident_mib,
            **case.seconds,
            **case.facts,
        }
        rows.append(
            [
                f"{images:,} images",
                f"{size:.2f} GiB",
                f"{written:.0f} s",
                f"{case.seconds['check']:.1f} s",
                f"{case.seconds['metrics']:.0f} s",
                f"{case.resident_mib:.0f} MiB",
            ]
        )
    peaks = [found["peak_mib"] for found in figures.values()]
    figures["grown_mib"] = peaks[-1] - peaks[0]
    measured.answer(
        as_json=arguments.json,
        columns=("images", "on disk", "written", "checked", "metrics", "peak memory"),
        rows=rows,
        figures=figures,
        ratios={f"MiB grown, bound {BOUND_MIB}": figures["grown_mib"]},
    )


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser("The driver's memory while an evaluation becomes metrics.")
    parser.add_argument(
        "--images", type=int, nargs="+", default=list(IMAGES), help="numbers of images, ascending"
    )
    parser.add_argument("--folder", help="where the parts lie meanwhile; the temporary folder")
    return parser


if __name__ == "__main__":
    main()
