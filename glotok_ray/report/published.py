"""Every number of the paper's Tables 1 to 6, from published.csv: one line per number, with its source, what it really
measured, and a remark where sources contradict each other.

Read next: glotok_ray/report/paper_tables.py
"""

import csv
import io
import math
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

from glotok_ray.report.protocols import Protocol

FILE = "published.csv"
COLUMNS: Mapping[int, tuple[str, ...]] = {
    1: ("codebook size", "rFID", "PSNR"),
    2: ("parameters", "tokens", "gFID", "IS"),
    3: ("density CV", "normalized entropy", "Gini"),
    4: ("weight", "rFID", "PSNR"),
    5: ("rFID", "PSNR"),
    6: ("rFID", "PSNR"),
}
"""Columns of numbers per table of the paper, in its order."""
TITLES: Mapping[int, str] = {
    1: "Reconstruction beside other tokenizers",
    2: "Class-conditional generation",
    3: "Uniformity of semantic latents",
    4: "Weight of the relation loss",
    5: "Relation and residual learning",
    6: "Source of the relations",
}
"""What each table shows, in our words."""
ROWS: Mapping[int, int] = {1: 15, 2: 20, 3: 3, 4: 3, 5: 3, 6: 3}
"""Rows per table of the paper."""
LOWER_IS_BETTER = frozenset({"rFID", "gFID", "density CV", "Gini"})
_KNOWN = ("read", "inferred", "unknown")


class PublishedNumber(NamedTuple):
    """One number of the paper."""

    table: int
    row: int
    """Place in the table, from 1."""
    group: str
    """The column that groups rows: kind of codebook, of generator, or of teacher."""
    method: str
    column: str
    printed: str
    """As the paper prints it, thousands and "x 2" written out."""
    value: float
    unit: str
    source: str
    """The paper's table, and whom the paper quotes there."""
    protocol: Protocol
    remark: str
    """What the number's sources say otherwise; empty where nothing is to be said."""


def published_numbers() -> list[PublishedNumber]:
    """All numbers in the order of the paper; raises ValueError for a file that is not complete or not as it should
    be.
    """
    text = resources.files("glotok_ray.report").joinpath(FILE).read_text(encoding="utf-8")
    return parse(text)


def parse(text: str) -> list[PublishedNumber]:
    """The numbers in the text of such a file; raises ValueError that names the line, the rule and the remedy."""
    numbers = [
        _number(line, place) for place, line in enumerate(csv.DictReader(io.StringIO(text)), 2)
    ]
    _check_complete(numbers)
    return numbers


def _number(line: dict[str, str], place: int) -> PublishedNumber:
    table, value = int(line["table"]), float(line["value"])
    if line["column"] not in COLUMNS.get(table, ()):
        known = ", ".join(COLUMNS.get(table, ()))
        raise ValueError(
            f"{FILE}, line {place}: column {line['column']!r} is none of Table {table} ({known}); correct it"
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{FILE}, line {place}: value = {value} must be finite; leave the line out"
        )
    for name in ("method", "source", "measure", "protocol"):
        if not line[name]:
            raise ValueError(f"{FILE}, line {place}: {name} must not be empty; fill it in")
    known = line["known"]
    if known not in _KNOWN:
        raise ValueError(f"{FILE}, line {place}: known = {known!r} must be one of {_KNOWN}")
    protocol = Protocol(
        measure=line["measure"],
        network=line["network"],
        num_images=int(line["num_images"]) if line["num_images"] else None,
        reference=line["reference"],
        crop=line["crop"],
        guidance=line["guidance"],
        sampler=line["sampler"],
        class_sampling=line["class_sampling"],
        order=line["order"],
        known=known,
        sentence=line["protocol"],
    )
    return PublishedNumber(
        table=table,
        row=int(line["row"]),
        group=line["group"],
        method=line["method"],
        column=line["column"],
        printed=line["value"],
        value=value,
        unit=line["unit"],
        source=line["source"],
        protocol=protocol,
        remark=line["remark"],
    )


def _check_complete(numbers: list[PublishedNumber]) -> None:
    """Every table has all its rows, no number twice, and the paper's order."""
    places = [
        (number.table, number.row, COLUMNS[number.table].index(number.column)) for number in numbers
    ]
    if places != sorted(set(places)):
        raise ValueError(f"{FILE}: lines must be in the paper's order, none twice; sort them")
    for table, count in ROWS.items():
        found = {number.row for number in numbers if number.table == table}
        if found != set(range(1, count + 1)):
            raise ValueError(
                f"{FILE}: Table {table} has rows {sorted(found)} and must have 1 to {count}; add what is missing"
            )
