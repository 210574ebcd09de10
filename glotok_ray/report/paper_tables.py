"""The paper's Tables 1 to 6 with our runs beside the rows that they belong to, and a mark on every protocol.

Two numbers are subtracted where `comparable` finds nothing against it, and nowhere else.
Read next: glotok_ray/report/paper_page.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from glotok_ray.report.finished_runs import FinishedRun
from glotok_ray.report.measured import MeasuredNumber, measured_numbers
from glotok_ray.report.paper_rows import belongs, row_beside
from glotok_ray.report.protocols import Protocol, comparable, not_stated
from glotok_ray.report.published import COLUMNS, TITLES, PublishedNumber

_OWN_ROW = {1: 14, 2: 18, 3: 3, 4: 3, 5: 3, 6: 3}
"""GloTok's own row per table, from 1: what runs without a row of their own are held against."""
_MEASURE_OF_COLUMN = {"rFID": "FID", "gFID": "FID", "codebook size": "size"}


class Cell(NamedTuple):
    """A number in a table."""

    printed: str
    value: float
    std: float | None
    protocol: Protocol
    mark: str
    """Letter of the protocol among those of the table; empty for sizes and settings."""
    remark: int | None
    """Number of the remark among those of the table."""
    other_measure: str
    """The measure, where it is not the column's own; else empty."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of the paper, or one of ours below the row that it belongs to."""

    name: str
    group: str
    cells: Mapping[str, Cell]
    source: str
    """The paper's table and whom it quotes; of ours the evaluation's folder."""
    run: FinishedRun | None = None
    """None in a row of the paper."""
    scale: str = ""
    """Size of the data, the models and the training, and the commit."""
    beside: Sequence[str] = ()
    """One sentence per column: the difference to the paper's number, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper with our rows."""

    number: int
    title: str
    columns: tuple[str, ...]
    rows: Sequence[TableRow]
    protocols: Mapping[str, Protocol]
    """By mark."""
    remarks: Sequence[str]
    """By number, from 1."""

    @property
    def num_ours(self) -> int:
        """Rows of ours."""
        return sum(row.run is not None for row in self.rows)


def paper_tables(
    runs: Sequence[FinishedRun], published: Sequence[PublishedNumber]
) -> list[PaperTable]:
    """Tables 1 to 6; `published` are the numbers of `published_numbers`."""
    return [
        _table(number, runs, [item for item in published if item.table == number])
        for number in COLUMNS
    ]


@dataclass
class _Footnotes:
    """Marks and remarks in the order in which the table needs them."""

    protocols: list[Protocol] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def mark(self, protocol: Protocol) -> str:
        if not protocol.is_measurement:
            return ""
        if protocol not in self.protocols:
            self.protocols.append(protocol)
        return _letters(self.protocols.index(protocol))

    def remark(self, text: str) -> int | None:
        if not text:
            return None
        if text not in self.remarks:
            self.remarks.append(text)
        return self.remarks.index(text) + 1


def _table(
    number: int, runs: Sequence[FinishedRun], published: Sequence[PublishedNumber]
) -> PaperTable:
    notes, columns = _Footnotes(), COLUMNS[number]
    places = {run.folder: row_beside(run, number) for run in runs if belongs(run, number)}
    shown = _without_repeats([run for run in runs if run.folder in places], number)
    rows: list[TableRow] = []
    for place in sorted({item.row for item in published}):
        line = {item.column: item for item in published if item.row == place}
        rows.append(_published_row(line, notes))
        rows += [_our_row(run, number, line, notes) for run in shown if places[run.folder] == place]
    own = {item.column: item for item in published if item.row == _OWN_ROW[number]}
    rows += [_our_row(run, number, own, notes) for run in shown if places[run.folder] is None]
    return PaperTable(
        number=number,
        title=TITLES[number],
        columns=columns,
        rows=rows,
        protocols={_letters(place): protocol for place, protocol in enumerate(notes.protocols)},
        remarks=notes.remarks,
    )


def _published_row(line: Mapping[str, PublishedNumber], notes: _Footnotes) -> TableRow:
    first = next(iter(line.values()))
    cells = {
        column: Cell(
            _shown(number.value) if _is_count(column) else number.printed,
            number.value,
            None,
            number.protocol,
            notes.mark(number.protocol),
            notes.remark(number.remark),
            _other_measure(column, number.protocol),
        )
        for column, number in line.items()
    }
    return TableRow(name=first.method, group=first.group, cells=cells, source=first.source)


def _our_row(
    run: FinishedRun, table: int, line: Mapping[str, PublishedNumber], notes: _Footnotes
) -> TableRow:
    numbers = measured_numbers(run, COLUMNS[table])
    has_row = row_beside(run, table) is not None
    cells = {
        column: Cell(
            _shown(number.value) if _is_count(column) else f"{number.value:.4g}",
            number.value,
            number.std,
            number.protocol,
            notes.mark(number.protocol),
            None,
            _other_measure(column, number.protocol),
        )
        for column, number in numbers.items()
    }
    return TableRow(
        name=run.generator_name if table == 2 else run.tokenizer_name,
        group="ours",
        cells=cells,
        source=run.folder.name,
        run=run,
        scale=scale_text(run, of_samples=table == 2),
        beside=_beside(numbers, line, has_row=has_row),
    )


def _without_repeats(runs: Sequence[FinishedRun], table: int) -> list[FinishedRun]:
    """Evaluations of several generators measure one tokenizer again and again; the first that has the same numbers
    by the same protocols is enough.
    """
    kept: list[FinishedRun] = []
    seen: list[object] = []
    for run in runs:
        measured = run.generator if table == 2 else run.tokenizer
        numbers = (
            measured.folder if measured else run.folder,
            measured_numbers(run, COLUMNS[table]),
        )
        if numbers not in seen:
            seen.append(numbers)
            kept.append(run)
    return kept


def _beside(
    numbers: Mapping[str, MeasuredNumber],
    line: Mapping[str, PublishedNumber],
    *,
    has_row: bool,
) -> list[str]:
    """Differences to the numbers of `line`, or why there are none; without a row of its own a run is held against
    GloTok's, of which it has no difference.
    """
    sentences = [] if has_row else ["no row of the paper has these settings"]
    for column, number in numbers.items():
        theirs = line.get(column)
        if theirs is None or not number.protocol.is_measurement:
            continue
        reason = comparable(number.protocol, theirs.protocol)
        if reason:
            sentences.append(f"{column}: not comparable: {reason}")
        elif has_row:
            difference = number.value - theirs.value
            unknown = not_stated(number.protocol, theirs.protocol)
            remark = f" ({', '.join(unknown)}: not stated by both)" if unknown else ""
            sentences.append(f"{column}: {difference:+.4g} to the paper's {theirs.printed}{remark}")
    return sentences


def scale_text(run: FinishedRun, *, of_samples: bool) -> str:
    """What was trained and measured, in one line: data, parameters, steps, commit; the generator and its sampling where
    samples were measured.
    """
    parts = [f"{run.num_images:,} crops"]
    parts.append(run.data or "data not stated")
    generator = run.generator if of_samples else None
    for what, model in (("tokenizer", run.tokenizer), ("generator", generator)):
        if model is not None:
            parameters = f"{_shown(model.parameters)} parameters"
            parts.append(f"{what} {model.name}: {parameters}, {model.training.text()}")
    if of_samples and run.samples is not None:
        parts.append(f"{run.samples.num_images:,} samples, {run.samples.sampling}")
    parts.append(f"commit {run.commit or 'not stated'}")
    return "; ".join(parts)


def _is_count(column: str) -> bool:
    return column in ("parameters", "codebook size", "tokens")


def _shown(value: float) -> str:
    """A count: codes in full, parameters in millions or billions."""
    if value >= 1e9:
        billions = f"{value / 1e9:.4g}"
        return f"{billions if '.' in billions else f'{billions}.0'}B"
    return f"{value / 1e6:.4g}M" if value >= 1e6 else f"{value:,.0f}"


def _other_measure(column: str, protocol: Protocol) -> str:
    own = _MEASURE_OF_COLUMN.get(column, column)
    return "" if protocol.measure == own else protocol.measure


def _letters(place: int) -> str:
    """a to z, then aa, ab and so on."""
    first, last = divmod(place, 26)
    return (chr(ord("a") + first - 1) if first else "") + chr(ord("a") + last)
