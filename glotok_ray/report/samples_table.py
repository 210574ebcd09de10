"""What a comparison of several sets of samples leaves: samples.csv, samples.json and samples.md.

Read next: glotok_ray/report/sample_rows.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glotok_ray.report.sample_rows import (
    Entries,
    labels_and_protocols,
    rows_table,
    sample_rows,
    write_rows,
)
from glotok_ray.storage import artefact

CSV_FILE, JSON_FILE, MARKDOWN_FILE = "samples.csv", "samples.json", "samples.md"
COMPARISON = "comparison"
"""Kind of the folder."""
_SET = "samples"


def write_comparison(
    measured: Mapping[str, Entries], folder: Path, *, paths: Mapping[str, str]
) -> None:
    """Write the table of the metrics of each set, by its short name; `paths` say where each lies."""
    rows = sample_rows(measured, _SET)
    write_rows(rows, folder / CSV_FILE)
    facts = {"paths": dict(paths), "values": rows, **labels_and_protocols(measured)}
    artefact.write_json(folder / JSON_FILE, facts)
    (folder / MARKDOWN_FILE).write_text(comparison_table(facts), encoding="utf-8")


def comparison_table(facts: Mapping[str, Any]) -> str:
    """The values of samples.json as Markdown."""
    rows = facts["values"]
    return rows_table(rows, facts["labels"], [_SET, *(row[_SET] for row in rows)]) + "\n"
