"""Markdown tables of sweeps and ablations."""

import math
from collections.abc import Iterable, Mapping, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are texts already."""
    return "\n".join([_line(heads), "|" + "---|" * len(heads), *(_line(cells) for cells in rows)])


def titled_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under its title in bold."""
    return f"**{title}**\n\n{markdown_table(heads, rows)}"


def failed_rows(failed: Mapping[str, str]) -> str:
    """Which rows have no metrics, and why; empty when there is none."""
    lines = [f"- {name}: {reason}" for name, reason in failed.items()]
    return "\n".join(["", "", "**Failed, without metrics**", "", *lines]) if lines else ""


def shown_number(value: float | None) -> str:
    """Four digits; a dash where nothing was measured."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
