"""The figures of the paper from the images that runs kept: Fig. 1's bars, samples, reconstructions, and one codebook
alone. A figure that no run has images for says which command makes them.

Read next: glotok_ray/report/paper_page.py
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glotok_ray.report import grids, pictures
from glotok_ray.report.grids import by_class
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import ImageFormat, absent, text
from glotok_ray.report.run_images import PER_CLASS, RunImages

_COLUMNS = 8
_ON_A_PHONE = 4
_SAMPLE_COMMAND = "python -m jobs.sample_images xar_h, then python -m jobs.evaluate_images xar_h"
_EVALUATE_COMMAND = "python -m jobs.evaluate_images glotok_16k"


def samples_html(found: Sequence[RunImages], images: ImageFormat) -> str:
    """Figs. 3 and 7: samples per class, a row a class."""
    blocks = [_samples_of(item, images) for item in found if item.samples is not None]
    return "".join(blocks) or absent(
        f"No run has samples. The commands that make them: {_SAMPLE_COMMAND}"
    )


def _samples_of(found: RunImages, images: ImageFormat) -> str:
    assert found.samples is not None
    rows = []
    for label, indices in by_class(found.samples.labels, per_class=PER_CLASS).items():
        name = _class_name(found, label)
        tags = "".join(
            images.tag(
                found.samples.images[index],
                f"Sample {place + 1} of {name}",
                "" if place < _ON_A_PHONE else "desk",
            )
            for place, index in enumerate(indices)
        )
        empty = "<span></span>" * (_COLUMNS - len(indices))
        rows.append(f'<div class="band"><div class="name">{text(name)}</div>{tags}{empty}</div>')
    count = len(found.run.samples.classes) if found.run.samples else 0
    note = f"The first of each class, not chosen; {len(rows)} of {count} classes."
    title = text(_title(found, of_samples=True))
    return f'<h3>{title}</h3><p class="soft">{note}</p>{"".join(rows)}'


def reconstructions_html(found: Sequence[RunImages], images: ImageFormat) -> str:
    """Fig. 6: crops, reconstructions and their differences."""
    blocks = [
        f"<h3>{text(_title(item))}</h3>"
        + pictures.reconstructions(ReportInputs(reconstructions=item.reconstructions), images)
        for item in found
        if item.reconstructions is not None
    ]
    return "".join(blocks) or absent(
        f"No run kept reconstructions. The command that makes them: {_EVALUATE_COMMAND}"
    )


def retention_html(found: Sequence[RunImages], images: ImageFormat) -> str:
    """Fig. 4: crops decoded from one codebook alone."""
    blocks = [
        f"<h3>{text(_title(item))}</h3>"
        + pictures.retention(
            ReportInputs(retention=item.retention, metrics=item.run.metrics), images
        )
        for item in found
        if item.retention is not None
    ]
    return "".join(blocks) or absent(
        "No run kept images of one codebook alone. The command that makes them, of a tokenizer with two codebooks: "
        f"{_EVALUATE_COMMAND}"
    )


def _title(found: RunImages, *, of_samples: bool = False) -> str:
    run = found.run
    name = run.generator_name if of_samples else run.tokenizer_name
    return f"{name} ({run.folder.name})"


def _class_name(found: RunImages, label: int) -> str:
    names = found.run.samples.classes if found.run.samples else ()
    return names[label].replace("_", " ") if label < len(names) else f"class {label}"


def write_figures(folder: Path, found: Sequence[RunImages]) -> list[str]:
    """The same images as PNG files; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for place, item in enumerate(found, 1):
        stem = f"{place:02d}_{item.run.folder.name}"
        for kind, write in _WRITERS.items():
            name = f"{stem}_{kind}.png"
            if write(folder / name, item):
                names.append(name)
    return names


def _write_samples(path: Path, found: RunImages) -> bool:
    if found.samples is None:
        return False
    rows = by_class(found.samples.labels, per_class=PER_CLASS)
    full = {label: indices for label, indices in rows.items() if len(indices) == PER_CLASS}
    chosen = full or rows
    columns = min(len(indices) for indices in chosen.values())
    order = [index for indices in chosen.values() for index in indices[:columns]]
    labels = [_class_name(found, label) for label in chosen]
    grids.write_grid(
        path,
        found.samples.images[order],
        columns=columns,
        row_labels=labels,
        title=f"Samples of {_title(found, of_samples=True)}",
    )
    return True


def _write_reconstructions(path: Path, found: RunImages) -> bool:
    pairs = found.reconstructions
    if pairs is None:
        return False
    rows = np.concatenate([pairs.inputs[:_COLUMNS], pairs.reconstructions[:_COLUMNS]])
    grids.write_grid(
        path,
        rows,
        columns=min(_COLUMNS, len(pairs.inputs)),
        row_labels=["input", "reconstruction"],
        title=f"Reconstructions of {_title(found)}",
    )
    return True


def _write_retention(path: Path, found: RunImages) -> bool:
    kept = found.retention
    if kept is None:
        return False
    rows = {"input": kept.inputs, "all codes": kept.both}
    rows |= {f"{name} only": images for name, images in kept.alone.items()}
    grids.write_grid(
        path,
        np.concatenate([images[:_COLUMNS] for images in rows.values()]),
        columns=min(_COLUMNS, len(kept.inputs)),
        row_labels=list(rows),
        title=f"One codebook alone, {_title(found)}",
    )
    return True


_WRITERS = {
    "samples": _write_samples,
    "reconstructions": _write_reconstructions,
    "retention": _write_retention,
}
