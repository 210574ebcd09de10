"""The trials and finalists of a sweep as Markdown tables.

Read next: glotok_ray/stages/sweep_results.py
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas

from glotok_ray.config.sweeps import SweepRun
from glotok_ray.report.markdown import failed_rows, markdown_table, shown_number, titled_table
from glotok_ray.report.sweep_summary import METRICS, FinalistSummary, Spread, label

_NOT_SHOWN = ("failed",)


def sweep_table(frame: pandas.DataFrame) -> str:
    """The ranked trials, and the reasons of those that failed."""
    shown = frame.drop(columns=list(_NOT_SHOWN))
    rows = shown.itertuples(index=False)
    failed = {name: why for name, why in zip(frame["trial"], frame["failed"], strict=True) if why}
    return markdown_table(
        [label(name) for name in shown], ([cell(value) for value in row] for row in rows)
    ) + failed_rows(failed)


def finalists_table(config: SweepRun, ranked: Sequence[FinalistSummary]) -> str:
    """The finalists, each with mean and standard deviation over its seeds; empty without any."""
    if not ranked:
        return ""
    return "\n\n" + titled_table(
        f"Finalists, over seeds {', '.join(map(str, config.finalist_seeds))}",
        finalist_heads(ranked),
        finalist_cells(ranked),
    )


def finalist_heads(ranked: Sequence[FinalistSummary]) -> list[str]:
    """The columns of the finalists' table."""
    return ["trial", *map(label, _changed(ranked)), "seeds", *map(label, _measured(ranked))]


def finalist_cells(ranked: Sequence[FinalistSummary]) -> list[list[str]]:
    """The cells of the finalists' table."""
    return [
        [
            item.trial.name,
            *(cell(item.trial.changes.get(name)) for name in _changed(ranked)),
            str(len(item.rows)) + (f" ({len(item.failed)} failed)" if item.failed else ""),
            *(_spread_text(item.spread(name)) for name in _measured(ranked)),
        ]
        for item in ranked
    ]


def cell(value: Any) -> str:
    """A value of a table as text."""
    if isinstance(value, str | bool):
        return str(value)
    return shown_number(value)


def _changed(ranked: Sequence[FinalistSummary]) -> list[str]:
    return [*dict.fromkeys(name for item in ranked for name in item.trial.changes)]


def _measured(ranked: Sequence[FinalistSummary]) -> list[str]:
    return [name for name in METRICS if any(item.spread(name) for item in ranked)]


def _spread_text(found: Spread | None) -> str:
    if found is None:
        return "-"
    spread = "" if math.isnan(found.std) else f" \u00b1 {_two_digits(found.std)}"
    return f"{found.mean:.4g}{spread}"


def _two_digits(value: float) -> str:
    """Two digits where that is no exponent, as in 320."""
    return f"{value:.2g}" if value < 100 else f"{round(value):,}"
