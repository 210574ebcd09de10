"""Metrics of several sets of samples as rows, one per set: of a guidance sweep, or of several folders.

Read next: glotok_ray/report/guidance.py, glotok_ray/report/samples_table.py
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glotok_ray.report.markdown import markdown_table, shown_number

Entries = Mapping[str, Mapping[str, Any]]
"""Of metrics.json."""
Row = dict[str, Any]


def metrics_of_samples(measured: Mapping[Any, Entries]) -> list[str]:
    """Names of the metrics of samples, as the first set has them."""
    return [name for name in next(iter(measured.values())) if name.startswith("samples_")]


def sample_rows(measured: Mapping[Any, Entries], head: str) -> list[Row]:
    """A row per set in the order given: its name under `head`, each value, and deviations where a set has one."""
    names, rows = metrics_of_samples(measured), []
    deviations = [
        name for name in names if any("std" in entries[name] for entries in measured.values())
    ]
    for key, entries in measured.items():
        row: Row = {head: key}
        for name in names:
            row[name] = entries[name]["value"]
            if name in deviations:
                row[f"{name}_std"] = entries[name].get("std")
        rows.append(row)
    return rows


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """As CSV."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def rows_table(rows: Sequence[Row], labels: Mapping[str, str], firsts: Sequence[str]) -> str:
    """As Markdown: `firsts` are the head and the cells of the first column, `labels` those of the metrics."""
    head, *cells = firsts
    shown = [
        (cell, *(shown_number(row[name]) for name in labels))
        for cell, row in zip(cells, rows, strict=True)
    ]
    return markdown_table((head, *labels.values()), shown)


def labels_and_protocols(measured: Mapping[str, Entries]) -> dict[str, Any]:
    """The labels of the metrics, and by set the protocol of each."""
    names, first = metrics_of_samples(measured), next(iter(measured.values()))
    return {
        "labels": {name: first[name]["label"] for name in names},
        "protocols": {
            key: {name: entries[name]["protocol"] for name in names}
            for key, entries in measured.items()
        },
    }
