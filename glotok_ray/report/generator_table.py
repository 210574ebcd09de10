"""Generators side by side, and the paper's rows below them: published numbers, ours, size, tokens and speed; as
Markdown and CSV.

Read next: glotok_ray/report/published.py
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glotok_ray.report.markdown import markdown_table, shown_number
from glotok_ray.report.published import PublishedNumber, published_numbers

IMAGES_PER_SECOND = "images_per_second"
"""Among a row's metrics."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRow:
    """One generator of a comparison."""

    name: str
    """Of its folder."""
    architecture: str
    """As reports call it: "xAR", "FAR", "GPT", "IBQ" or "VAR"."""
    parameters: int
    """Of the whole network."""
    tokens: int
    """Per image."""
    evaluations: int
    """Passes through the network per image, those without a class included."""
    sampling: str
    """Guidance and more, in a few words."""
    recipe: str
    """Its recipe; empty where no recipe has such a model."""
    row: int | None
    """Row of the paper's Table 2, from 1."""
    metrics: Mapping[str, float | None]
    """By the names of metrics.json, and IMAGES_PER_SECOND where it was timed."""


Table2 = Mapping[int, Mapping[str, PublishedNumber]]


def published_table_2() -> Table2:
    """The paper's Table 2: row, then column."""
    found: dict[int, dict[str, PublishedNumber]] = {}
    for number in published_numbers():
        if number.table == 2:
            found.setdefault(number.row, {})[number.column] = number
    return found


def heads(labels: Mapping[str, str]) -> list[str]:
    """Heads of the table; `labels` are those of the measured metrics."""
    fixed = ["generator", "kind", "parameters", "tokens", "passes", "sampling"]
    return [*fixed, "published gFID", "published IS", *labels.values(), "images/s"]


def cells(row: GeneratorRow, labels: Mapping[str, str], paper: Table2) -> list[str]:
    """A measured row."""
    published = paper.get(row.row or 0, {})
    return [
        row.name,
        row.architecture,
        _millions(row.parameters),
        f"{row.tokens:,}",
        str(row.evaluations),
        row.sampling,
        _printed(published, "gFID"),
        _printed(published, "IS"),
        *(shown_number(row.metrics.get(name)) for name in labels),
        shown_number(row.metrics.get(IMAGES_PER_SECOND)),
    ]


def published_cells(
    published: Mapping[str, PublishedNumber], labels: Mapping[str, str]
) -> list[str]:
    """A row of the paper that nothing was measured of."""
    first = next(iter(published.values()))
    tokens, parameters = published["tokens"], published["parameters"]
    return [
        f"*{first.method}*",
        first.group,
        _millions(int(parameters.value)),
        f"{int(tokens.value):,}",
        "-",
        "paper",
        _printed(published, "gFID"),
        _printed(published, "IS"),
        *("-" for _ in labels),
        "-",
    ]


def markdown(
    rows: Sequence[GeneratorRow], labels: Mapping[str, str], *, title: str, protocol: str
) -> str:
    """The table with its protocol, and what the sources of published numbers say of them."""
    paper = published_table_2()
    beside = {row.row for row in rows}
    lines = [cells(row, labels, paper) for row in rows]
    lines += [
        published_cells(numbers, labels) for place, numbers in paper.items() if place not in beside
    ]
    parts = [
        f"# {title}",
        protocol,
        markdown_table(heads(labels), lines),
        "Rows in italics are the paper's (Table 2), as printed there, and were not measured.",
    ]
    if notes := notes_of(rows, paper):
        parts.append("## What sources say of the published numbers\n\n" + notes)
    return "\n\n".join(parts) + "\n"


def notes_of(rows: Sequence[GeneratorRow], paper: Table2) -> str:
    """Source, protocol and remarks of the paper's rows that measured ones stand beside."""
    lines = []
    for row in rows:
        numbers = paper.get(row.row or 0, {})
        for column in ("parameters", "tokens", "gFID", "IS"):
            if column in numbers and numbers[column].remark:
                lines.append(f"- {row.name}, {column}: {numbers[column].remark}")
        if "gFID" in numbers:
            protocol = numbers["gFID"].protocol.sentence
            lines.append(f"- {row.name}, gFID: {numbers['gFID'].source}. {protocol}")
    return "\n".join(dict.fromkeys(lines))


def comma_separated(rows: Sequence[GeneratorRow], labels: Mapping[str, str]) -> str:
    """All values of all rows as CSV, unrounded; the paper's rows below them."""
    paper, text = published_table_2(), io.StringIO()
    facts = ("name", "architecture", "parameters", "tokens", "evaluations", "sampling", "recipe")
    names = [*labels, IMAGES_PER_SECOND]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*facts, "published_gfid", "published_is", *names])
    for row in rows:
        numbers = paper.get(row.row or 0, {})
        values = [getattr(row, fact) for fact in facts]
        quoted = [_value(numbers, "gFID"), _value(numbers, "IS")]
        writer.writerow([*values, *quoted, *(row.metrics.get(name) for name in names)])
    beside = {row.row for row in rows}
    for place, numbers in paper.items():
        if place not in beside:
            first = next(iter(numbers.values()))
            size, tokens = (int(numbers[column].value) for column in ("parameters", "tokens"))
            values = [f"{first.method} (paper)", first.group, size, tokens, None, "", ""]
            quoted = [_value(numbers, "gFID"), _value(numbers, "IS")]
            writer.writerow([*values, *quoted, *(None for _ in names)])
    return text.getvalue()


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M"


def _printed(numbers: Mapping[str, PublishedNumber], column: str) -> str:
    return numbers[column].printed if column in numbers else "-"


def _value(numbers: Mapping[str, PublishedNumber], column: str) -> float | None:
    return numbers[column].value if column in numbers else None
