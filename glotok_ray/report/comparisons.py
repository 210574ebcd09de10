"""Finished comparisons of tokenizers in the report of the paper's tables: rows, sources, footnotes, and the images.

Read next: glotok_ray/report/tokenizer_table.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glotok_ray.report.markup import ImageFormat, folded, table, text
from glotok_ray.report.tokenizer_table import (
    TokenizerRow,
    cells,
    columns,
    notes_of,
    sources_of,
)
from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand

KIND = "tokenizer_comparison"
TABLE_FILE, CSV_FILE, METRICS_FILE = "table.md", "table.csv", "metrics.json"
GRID_FILE, PARTS_FOLDER = "reconstructions.png", "parts"
_SHOWN = 6
"""Images per row of the page."""


class Part(NamedTuple):
    """The files of one tokenizer's measurement."""

    row: Path
    pictures: Path


class Comparison(NamedTuple):
    """A finished `jobs.evaluate_tokenizers`."""

    folder: Path
    rows: Sequence[TokenizerRow]
    parts: Sequence[Part]
    protocol: str


def part(folder: Path, place: int) -> Part:
    """The files of the tokenizer at that place, from 0."""
    parts = folder / PARTS_FOLDER
    return Part(parts / f"{place:03d}.json", parts / f"{place:03d}.npz")


def is_comparison(folder: Path) -> bool:
    """Whether a finished comparison of tokenizers lies there."""
    if not artefact.is_finished(folder):
        return False
    return artefact.stated_manifest(folder)["kind"] == KIND


def read_comparison(folder: Path) -> Comparison:
    """Its rows in their order; raises ArtefactError for damaged files."""
    manifest = artefact.read_manifest(folder, KIND)
    parts = [part(folder, place) for place in range(manifest["rows"])]
    rows = [TokenizerRow(**artefact.read_json(one.row)) for one in parts]
    return Comparison(folder, rows, parts, manifest["protocol"])


def comparison_markdown(found: Comparison) -> str:
    """The comparison's own table.md."""
    return (found.folder / TABLE_FILE).read_text(encoding="utf-8")


def comparison_html(found: Comparison, images: ImageFormat) -> str:
    """Table, images and notes of one comparison."""
    heads = columns(found.rows)
    lines = [
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in cells(row, heads)) + "</tr>"
        for row in found.rows
    ]
    notes = "".join(
        f"<li>{text(line)}</li>" for line in (*notes_of(found.rows), *sources_of(found.rows))
    )
    pictures = "".join(
        f"<tr><th>{text(name)}</th><td>{''.join(images.tag(image, name) for image in shown)}</td></tr>"
        for name, shown in _pictures(found)
    )
    return (
        f'<p class="soft">{text(found.protocol)}</p>{table(heads, lines, "paper")}'
        f"{folded('The same crops through every tokenizer', f'<table>{pictures}</table>')}"
        f"{folded('Remarks and sources', f'<ul>{notes}</ul>')}"
    )


def _pictures(found: Comparison) -> list[tuple[str, np.ndarray]]:
    shown = []
    for place, (row, one) in enumerate(zip(found.rows, found.parts, strict=True)):
        with np.load(at_hand(one.pictures)) as stored:
            if place == 0:
                shown.append(("crops", stored["inputs"][:_SHOWN]))
            shown.append((row.name, stored["reconstructions"][:_SHOWN]))
    return shown
