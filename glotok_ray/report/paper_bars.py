"""Fig. 1 of the paper: rFID and gFID of all methods as bars, with ours where the protocols allow it.

Read next: glotok_ray/report/paper_figures.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from glotok_ray.report.markup import text
from glotok_ray.report.paper_tables import PaperTable, TableRow
from glotok_ray.report.protocols import comparable
from glotok_ray.storage.places import writing

BARS = {1: "rFID", 2: "gFID"}
"""Column that is drawn, by table."""
_OWN_METHOD = "GloTok"


class Bar(NamedTuple):
    """One bar."""

    name: str
    value: float
    printed: str
    kind: str
    """"paper" (GloTok's own), "peer", "other" (a protocol that is not GloTok's) or "ours"."""
    why: str
    """Why it is not comparable with GloTok's own; empty where it is."""


class BarChart(NamedTuple):
    """The bars of one metric."""

    column: str
    bars: Sequence[Bar]
    left_out: Sequence[str]
    """Our runs that have no bar, each with the reason."""


def bar_chart(table: PaperTable) -> BarChart:
    """The bars of Table 1's rFID or Table 2's gFID, worst first, as the paper's Fig. 1 compares them."""
    column = BARS[table.number]
    rows = [row for row in table.rows if column in row.cells]
    own = next(row for row in rows if row.run is None and row.name == _OWN_METHOD)
    bars: list[Bar] = []
    left_out = []
    for row in rows:
        cell = row.cells[column]
        why = comparable(cell.protocol, own.cells[column].protocol)
        if row.run is None:
            bars.append(Bar(_name(row, table), cell.value, cell.printed, _kind(row, why), why))
        elif why:
            left_out.append(f"{row.name} ({row.source}): not comparable: {why}")
        else:
            bars.append(Bar(f"ours: {row.name}", cell.value, cell.printed, "ours", ""))
    return BarChart(column, sorted(bars, key=lambda bar: -bar.value), left_out)


def _kind(row: TableRow, why: str) -> str:
    if why:
        return "other"
    return "paper" if row.name.startswith(_OWN_METHOD) else "peer"


def _name(row: TableRow, table: PaperTable) -> str:
    """The method with what tells apart rows of one method: its codes, or its generator and parameters."""
    if table.number == 2:
        return f"{row.name}, {row.group} {row.cells['parameters'].printed}"
    return f"{row.name}, {row.cells['codebook size'].printed} codes"


def bars_html(chart: BarChart) -> str:
    """The bars as HTML; their lengths grow with the root of the value, so that the best can be told apart."""
    longest = max(bar.value for bar in chart.bars) ** 0.5
    lines = "".join(
        f'<li class="{bar.kind}"><span class="who">{text(bar.name)}</span>'
        f'<span class="bar"><i style="width:{100 * bar.value**0.5 / longest:.1f}%"></i></span>'
        f"<b>{bar.printed}</b></li>"
        for bar in chart.bars
    )
    note = (
        f'<p class="soft">Ours are not among the bars: {text("; ".join(chart.left_out))}.</p>'
        if chart.left_out
        else ""
    )
    return f'<h3>{chart.column}, lower is better</h3><ul class="bars">{lines}</ul>{note}'


def draw_bars(charts: Sequence[BarChart], path: Path) -> None:
    """Both charts side by side as a PNG file."""
    # Imported here: only who draws needs it.
    from matplotlib.figure import Figure

    colours = {"paper": "#1f6fc4", "peer": "#9aa5b1", "other": "#d8dde2", "ours": "#d9601a"}
    figure = Figure(figsize=(12, 6.5), layout="constrained", facecolor="white")
    for place, chart in enumerate(charts):
        axes = figure.add_subplot(1, len(charts), place + 1)
        values = [bar.value for bar in chart.bars]
        drawn = axes.barh(
            range(len(values)), values, color=[colours[bar.kind] for bar in chart.bars]
        )
        axes.set_yticks(range(len(values)), [bar.name for bar in chart.bars], fontsize=8)
        axes.bar_label(drawn, [bar.printed for bar in chart.bars], padding=3, fontsize=8)
        axes.set_xscale("function", functions=(lambda value: value**0.5, lambda root: root**2))
        axes.set_xticks([])
        axes.set_xlim(0, 1.2 * max(values))
        axes.set_title(f"{chart.column}, lower is better (pale: another protocol)", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    with writing(path) as local:
        figure.savefig(local, dpi=110, format="png")
