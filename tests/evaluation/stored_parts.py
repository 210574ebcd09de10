"""Blocks measured in this process and stored as the job stores them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from glotok_ray.evaluation.parts import MeasuredBlock, planned_part, write_part
from glotok_ray.evaluation.plan import Block, units_of
from glotok_ray.evaluation.streams import MeasuredImages, open_measured

Measure = Callable[[Sequence[Block]], Sequence[MeasuredBlock]]


def in_parts(blocks: Sequence[Block], measure: Measure, folder: Path) -> dict[str, MeasuredImages]:
    """All images of the blocks by kind, from parts below `folder`."""
    parts_folder = folder / "parts"
    parts_folder.mkdir(parents=True, exist_ok=True)
    planned = []
    for unit in units_of(blocks):
        planned.append(planned_part(unit, "fingerprint"))
        write_part(parts_folder, planned[-1], measure(unit))
    return open_measured(parts_folder, planned)
