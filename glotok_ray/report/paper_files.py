"""tables.csv and tables.md: the paper's tables with our rows, for other programs and for reading as text.

Read next: glotok_ray/report/paper_page.py
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from glotok_ray.report.markdown import markdown_table
from glotok_ray.report.paper_tables import Cell, PaperTable, TableRow

_HEADS = (
    *("table", "row", "group", "name", "column", "value", "std"),
    *("measure", "network", "num_images", "data", "reference", "crop"),
    *("guidance", "sampler", "class_sampling", "order", "known", "protocol"),
    *("source", "remark", "scale", "commit", "beside"),
)
KNOWN = {
    "read": "read in its source",
    "inferred": "inferred",
    "unknown": "not known",
    "measured": "measured here",
}
"""How a protocol is known, in words."""


def write_csv(path: Path, tables: Sequence[PaperTable]) -> None:
    """One line per number; `beside` is the comparison of a number of ours with the paper's."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_HEADS)
        for table in tables:
            for place, row in enumerate(table.rows, 1):
                writer.writerows(
                    _csv_line(table, place, row, column)
                    for column in table.columns
                    if column in row.cells
                )


def _csv_line(table: PaperTable, place: int, row: TableRow, column: str) -> list[object]:
    cell = row.cells[column]
    protocol = cell.protocol
    beside = [line for line in row.beside if line.startswith(f"{column}: ")]
    return [
        *(table.number, place, row.group, row.name, column, cell.value, _or_empty(cell.std)),
        *(protocol.measure, protocol.network, _or_empty(protocol.num_images)),
        protocol.data if protocol.is_measurement else "",
        *(protocol.reference, protocol.crop, protocol.guidance, protocol.sampler),
        *(protocol.class_sampling, protocol.order, protocol.known, protocol.sentence),
        *(row.source, table.remarks[cell.remark - 1] if cell.remark else ""),
        *(row.scale, row.run.commit if row.run else "", "".join(beside)),
    ]


def _or_empty(value: float | None) -> object:
    return "" if value is None else value


def markdown(tables: Sequence[PaperTable]) -> str:
    """All tables with their protocols and remarks as Markdown."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _markdown(table: PaperTable) -> str:
    heads = ("row", "group", *table.columns, "beside the paper")
    rows = [
        (
            f"**{row.name}**" if row.run else row.name,
            row.group,
            *(_text(row.cells.get(column)) for column in table.columns),
            "; ".join(row.beside),
        )
        for row in table.rows
    ]
    blocks = [f"## Table {table.number}: {table.title}", markdown_table(heads, _escaped(rows))]
    ours = [f"- **{row.name}** ({row.source}): {row.scale}" for row in table.rows if row.run]
    blocks += ["\n".join(ours)] if ours else []
    blocks.append(
        "\n".join(
            f"- [{mark}] {protocol.sentence} ({KNOWN[protocol.known]})"
            for mark, protocol in table.protocols.items()
        )
    )
    if table.remarks:
        blocks.append(
            "\n".join(f"- [{place}] {text}" for place, text in enumerate(table.remarks, 1))
        )
    return "\n\n".join(blocks)


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    measure = f"{cell.other_measure} " if cell.other_measure else ""
    spread = f" \u00b1 {cell.std:.2g}" if cell.std is not None else ""
    marks = [mark for mark in (cell.mark, str(cell.remark or "")) if mark]
    return f"{measure}{cell.printed}{spread}{''.join(f' [{mark}]' for mark in marks)}"


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
