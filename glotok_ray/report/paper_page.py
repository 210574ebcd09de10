"""index.html: the paper's tables and figures with our numbers, one self-contained page.

All text from configs, metrics and folders is escaped. Read next: glotok_ray/report/paper_tables.py
"""

from collections.abc import Sequence

from glotok_ray.report.comparisons import Comparison, comparison_html
from glotok_ray.report.markup import ImageFormat, text
from glotok_ray.report.paper_bars import BARS, bar_chart, bars_html
from glotok_ray.report.paper_figures import reconstructions_html, retention_html, samples_html
from glotok_ray.report.paper_files import KNOWN
from glotok_ray.report.paper_tables import Cell, PaperTable, TableRow
from glotok_ray.report.run_images import RunImages
from glotok_ray.report.style import PAPER_STYLE, STYLE

MOST_BYTES = 4_500_000
"""Of the page; images are kept as JPEG, coarser and coarser, until it fits."""
_QUALITIES = (None, 92, 80, 60, 40)
_COMMANDS = {
    1: "python -m jobs.evaluate_images glotok_16k",
    2: "python -m jobs.evaluate_images xar_b",
    3: "python -m jobs.evaluate_images glotok_2x",
    4: "python -m jobs.train_tokenizer relation_001_40, then python -m jobs.evaluate_images glotok_16k "
    "--tokenizer-path runs/relation_001_40 --output-path runs/relation_001_40_evaluation",
    5: "python -m jobs.train_tokenizer relation_only, then python -m jobs.evaluate_images glotok_16k "
    "--tokenizer-path runs/relation_only --output-path runs/relation_only_evaluation",
    6: "python -m jobs.train_tokenizer teacher_dinov2, then python -m jobs.evaluate_images glotok_16k "
    "--tokenizer-path runs/teacher_dinov2 --output-path runs/teacher_dinov2_evaluation",
}
"""What makes a row of ours, by table."""


def render(
    tables: Sequence[PaperTable],
    found: Sequence[RunImages],
    comparisons: Sequence[Comparison] = (),
) -> str:
    """The page as HTML text, of at most MOST_BYTES unless its text alone is longer."""
    page = ""
    for quality in _QUALITIES:
        page = _render(tables, found, comparisons, ImageFormat(quality))
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _render(
    tables: Sequence[PaperTable],
    found: Sequence[RunImages],
    comparisons: Sequence[Comparison],
    images: ImageFormat,
) -> str:
    charts = "".join(bars_html(bar_chart(table)) for table in tables if table.number in BARS)
    sections = {
        "bars": ("Fig. 1: the methods side by side", _BARS_NOTE + charts),
        **{
            f"table-{table.number}": (f"Table {table.number}: {table.title}", _table(table))
            for table in tables
        },
        **{
            f"tokenizers-{place}": (
                f"Tokenizers, {one.folder.name}: all under one protocol",
                comparison_html(one, images),
            )
            for place, one in enumerate(comparisons, 1)
        },
        "samples": ("Figs. 3 and 7: samples", samples_html(found, images)),
        "retention": ("Fig. 4: one codebook alone", retention_html(found, images)),
        "reconstructions": ("Fig. 6: reconstructions", reconstructions_html(found, images)),
    }
    body = "".join(
        f'<section id="{name}"><h2>{text(heading)}</h2>{content}</section>'
        for name, (heading, content) in sections.items()
    )
    links = "".join(
        f'<a href="#{name}">{text(heading.split(":")[0])}</a>'
        for name, (heading, _) in sections.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>GloTok: the paper and our runs</title>'
        f"<style>{STYLE}{PAPER_STYLE}</style></head><body><main>{_header(found)}"
        f'<nav aria-label="Sections">{links}</nav>{body}</main></body></html>\n'
    )


_BARS_NOTE = (
    '<p class="soft">Published values of Tables 1 and 2. Pale bars were measured by another protocol than GloTok\'s '
    "row; the tables say by which. Lengths grow with the root of the value.</p>"
)


def _header(found: Sequence[RunImages]) -> str:
    commits = sorted({item.run.commit or "not stated" for item in found})
    missing = [line for item in found for line in item.run.missing]
    lines = "".join(f"<li>{text(line)}</li>" for line in missing)
    gone = f'<div class="missing">Not found:<ul>{lines}</ul></div>' if lines else ""
    return (
        '<header><p class="run">GloTok</p><h1>The paper\'s tables and figures, with our runs beside them</h1>'
        f'<p class="lead">{len(found)} evaluations of ours; commit {text(", ".join(commits))}. A letter at a number is '
        "its protocol, a digit a remark; both are below each table. Two numbers are subtracted only where their "
        f"protocols are the same; where they are not, the row says which two were met.</p>{gone}</header>"
    )


def _table(table: PaperTable) -> str:
    columns = "".join(f'<th scope="col">{text(column)}</th>' for column in table.columns)
    rows = "".join(_row(table, row) for row in table.rows)
    none = (
        ""
        if table.num_ours
        else f'<p class="missing">No run of ours is in this table. Commands: {text(_COMMANDS[table.number])}</p>'
    )
    return (
        f'{none}<table class="paper"><thead><tr><th scope="col">method</th>{columns}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{_notes(table)}"
    )


def _row(table: PaperTable, row: TableRow) -> str:
    cells = "".join(
        f'<td class="number">{_cell(row.cells.get(column))}</td>' for column in table.columns
    )
    if row.run is None:
        group = f"<small>{text(row.group)}</small>" if row.group else ""
        return f'<tr><th scope="row">{text(row.name)}{group}</th>{cells}</tr>'
    sentences = "".join(f"<li>{text(sentence)}</li>" for sentence in row.beside)
    return (
        f'<tr class="ours"><th scope="row">ours: {text(row.name)}<small>{text(row.source)}</small></th>{cells}</tr>'
        f'<tr class="ours more"><td colspan="{len(table.columns) + 1}"><ul>{sentences}</ul>'
        f"<small>{text(row.scale)}</small></td></tr>"
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "\u2013"
    marks = ", ".join(mark for mark in (cell.mark, str(cell.remark or "")) if mark)
    spread = f" \u00b1 {cell.std:.2g}" if cell.std is not None else ""
    above = f"<sup>{marks}</sup>" if marks else ""
    measure = f"<small>{text(cell.other_measure)}</small>" if cell.other_measure else ""
    return f"{text(cell.printed)}{spread}{above}{measure}"


def _notes(table: PaperTable) -> str:
    protocols = "".join(
        f"<dt>{mark}</dt><dd>{text(protocol.sentence)} <em>({KNOWN[protocol.known]})</em></dd>"
        for mark, protocol in table.protocols.items()
    )
    remarks = "".join(
        f"<dt>{place}</dt><dd>{text(line)}</dd>" for place, line in enumerate(table.remarks, 1)
    )
    sources = sorted({row.source for row in table.rows if row.run is None})
    quoted = "".join(f"<li>{text(source)}</li>" for source in sources)
    return (
        f"<details><summary>Protocols {_span(list(table.protocols))}, remarks, sources</summary>"
        f'<dl class="notes">{protocols}{remarks}</dl><ul class="soft">{quoted}</ul></details>'
    )


def _span(marks: Sequence[str]) -> str:
    return f"{marks[0]} to {marks[-1]}" if len(marks) > 1 else "".join(marks)
