"""The sections of pictures: reconstructions, samples beside real crops, and what each codebook holds.

Read next: glotok_ray/report/sections.py
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import UInt8
from numpy import ndarray

from glotok_ray.evaluation.array_names import RECONSTRUCTION, retention_pictures
from glotok_ray.metrics.error_parts import PARTS
from glotok_ray.report.grids import by_class
from glotok_ray.report.headlines import Source
from glotok_ray.report.images import LabelledImages, differences
from glotok_ray.report.inputs import REAL_PER_CLASS, ReportInputs
from glotok_ray.report.markup import ImageFormat, absent, folded, table, text

_NONE = "\u2013"
_COLUMNS = 8
_MOST_CROPS = 24
_SAMPLES_PER_CLASS = 8
# A phone shows half of what a desk shows.
_ON_A_PHONE = 4


class _Row(NamedTuple):
    """A row of images with its name."""

    name: str
    note: str
    images: UInt8[ndarray, "n h w 3"]


class _Set(NamedTuple):
    """Images of one origin in the row of a class: real crops, or a generator's samples."""

    name: str
    columns: int
    chosen: Mapping[int, list[int]]
    """Label -> indices."""
    found: LabelledImages


def reconstructions(inputs: ReportInputs, images: ImageFormat) -> str:
    """Input, reconstruction and difference, one under the other."""
    pairs = inputs.reconstructions
    if pairs is None:
        return absent("This run kept no reconstructions.")
    rows = [
        _Row("Input", "never trained on", pairs.inputs),
        _Row("Reconstruction", "from the codes alone", pairs.reconstructions),
        _Row("Difference", "grey is none", differences(pairs)),
    ]
    count = min(len(pairs.inputs), _MOST_CROPS)
    bands = [_band(rows, images, start) for start in range(0, count, _COLUMNS)]
    more = f"{count - _COLUMNS} more crops"
    return (
        '<p class="soft">The first validation crops in shard order, not chosen.</p>'
        f"{bands[0]}{folded(more, ''.join(bands[1:])) if bands[1:] else ''}"
    )


def retention(inputs: ReportInputs, images: ImageFormat) -> str:
    """Crops decoded from all codes, and from the codes of one codebook."""
    found = inputs.retention
    if found is None:
        return absent("This run kept no images decoded from one codebook alone.")
    source = Source(inputs.metrics)
    rows = [
        _Row("Input", "", found.inputs),
        _Row("All codes", _decibels(source.value("reconstruction_psnr")), found.both),
    ]
    for name, alone in found.alone.items():
        note = _decibels(source.value(f"retention_{name}_psnr"))
        rows.append(_Row(f"{name.capitalize()} only", note, alone))
    return (
        '<p class="soft">Each place of an image has one code of each codebook. Decoded from one codebook alone, an '
        f"image shows what that codebook holds.</p>{_band(rows, images, 0)}{_error_table(source, list(found.alone))}"
    )


def _error_table(source: Source, names: Sequence[str]) -> str:
    """PSNR by frequency and colour of every row; empty where the run measured none."""
    rows = {"All codes": RECONSTRUCTION} | {
        f"{name.capitalize()} only": retention_pictures(name) for name in names
    }
    values = {
        what: [source.value(f"{row}_psnr_{part.name}") for part in PARTS]
        for what, row in rows.items()
    }
    values["Mid-grey"] = [source.chance(f"{RECONSTRUCTION}_psnr_{part.name}") for part in PARTS]
    if all(value is None for found in values.values() for value in found):
        return ""
    lines = [
        f"<tr><td>{text(what)}</td>{''.join(_number_cell(value) for value in found)}</tr>"
        for what, found in values.items()
    ]
    note = (
        "PSNR in dB of what each row gets right, by octaves of spatial frequency in cycles per pixel, and of luma and "
        "chroma. A codebook holds what lies above the level of an image of mid-grey alone."
    )
    columns = ("Decoded from", *(part.title for part in PARTS))
    content = f'<p class="soft">{note}</p>{table(columns, lines, "metrics")}'
    return folded("The same by frequency and colour", content)


def _number_cell(value: float | None) -> str:
    return f'<td class="number">{_NONE if value is None else f"{value:.1f}"}</td>'


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB PSNR"


def _band(rows: Sequence[_Row], images: ImageFormat, start: int) -> str:
    parts = []
    for name, note, all_images in rows:
        shown = all_images[start : start + _COLUMNS]
        note = f"<small>{text(note)}</small>" if note else ""
        parts.append(f'<div class="name">{text(name)}{note}</div>')
        parts += [
            images.tag(image, f"{name}, crop {start + place + 1}", _width_class(place))
            for place, image in enumerate(shown)
        ]
        parts += ["<span></span>"] * (_COLUMNS - len(shown))
    return f'<div class="band">{"".join(parts)}</div>'


def _width_class(place: int) -> str:
    return "" if place < _ON_A_PHONE else "desk"


def samples(inputs: ReportInputs, images: ImageFormat) -> str:
    """One row per class: real crops, samples of xAR, samples of FAR."""
    if inputs.samples is None and inputs.far_samples is None:
        return absent("This run has no samples.")
    sets = [
        _set("Real crops", 2, REAL_PER_CLASS, inputs.real_crops),
        _set("Samples of xAR", 4, _SAMPLES_PER_CLASS, inputs.samples),
        _set("Samples of FAR", 4, _SAMPLES_PER_CLASS, inputs.far_samples),
    ]
    present = [found for found in sets if found is not None]
    heads = "".join(f"<div>{text(found.name)}</div>" for found in present)
    rows = "".join(_class_row(inputs, label, present, images) for label in inputs.shown_classes)
    return (
        f'<p class="soft">{text(_samples_note(inputs))}</p>'
        f'<div class="classes" style="--columns:{_column_widths(present)}">'
        f'<div class="class heads" aria-hidden="true"><div></div>{heads}</div>{rows}</div>'
    )


def _set(name: str, columns: int, per_class: int, found: LabelledImages | None) -> _Set | None:
    if found is None:
        return None
    return _Set(name, columns, by_class(found.labels, per_class=per_class), found)


def _samples_note(inputs: ReportInputs) -> str:
    note = "The first of each class, not chosen; real crops are those that the generators learned from."
    total = max(len(inputs.class_names), len(inputs.shown_classes))
    shown = len(inputs.shown_classes)
    return f"{note} {shown} of {total} classes." if total > shown else note


def _column_widths(sets: Sequence[_Set]) -> str:
    """Widths of the sets in CSS, such that images of all sets are equally large."""
    columns = sum(found.columns for found in sets)
    gaps = f"{columns - len(sets)} * var(--gap)"
    rest = f"100% - var(--names) - {len(sets)} * var(--set-gap) - {gaps}"
    widths = [
        f"calc({found.columns} * ({rest}) / {columns} + {found.columns - 1} * var(--gap))"
        for found in sets
    ]
    return f"var(--names) {' '.join(widths)}"


def _class_row(inputs: ReportInputs, label: int, sets: Sequence[_Set], images: ImageFormat) -> str:
    name = class_name(inputs, label)
    parts = []
    for found in sets:
        tags = "".join(
            images.tag(
                found.found.images[index], f"{found.name}: {name}, {place + 1}", _width_class(place)
            )
            for place, index in enumerate(found.chosen.get(label, []))
        )
        parts.append(
            f'<div class="set" style="--across:{found.columns}">'
            f'<div class="phone">{text(found.name)}</div>{tags}</div>'
        )
    return f'<div class="class"><h3>{text(name)}</h3>{"".join(parts)}</div>'


def class_name(inputs: ReportInputs, label: int) -> str:
    """The name of a class; its number where the run has no names."""
    known = label < len(inputs.class_names)
    return str(inputs.class_names[label]).replace("_", " ") if known else f"class {label}"
