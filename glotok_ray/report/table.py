"""The results of a whole pipeline as plain text, for the end of a terminal session."""

from collections.abc import Mapping
from typing import Any


def results_table(answer: Mapping[str, Any]) -> str:
    """Stages with seconds, every metric, the relation KL before and after, and where the report lies."""
    stages = [(row["stage"], f"{row['seconds']:.0f} s", row["status"]) for row in answer["stages"]]
    metrics = [
        (_label(name, entry), _number(entry), "") for name, entry in answer["metrics"].items()
    ]
    relation = answer["relation"]
    metrics += [
        ("relation KL at initialisation", f"{relation['kl_initial']:.4g}", ""),
        ("relation KL at the end", f"{relation['kl_final']:.4g}", ""),
    ]
    blocks = [_block("stage", stages), _block("metric", metrics), f"report: {answer['report']}"]
    return "\n\n".join(blocks) + "\n"


def _label(name: str, entry: Mapping[str, Any]) -> str:
    # Both codebooks have metrics of one name; the page puts them under a heading each.
    branch = name.split("_")[0]
    label = entry.get("label", name)
    return f"{branch}: {label}" if branch in ("semantic", "visual") else label


def _number(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "undefined"
    spread = f" +- {entry['std']:.2g}" if entry.get("std") is not None else ""
    return f"{entry['value']:.4g}{spread}"


def _block(title: str, rows: list[tuple[str, str, str]]) -> str:
    width = max(len(name) for name, *_ in rows)
    lines = [f"{name:<{width}}  {value:>16}  {note}".rstrip() for name, value, note in rows]
    return "\n".join([f"{title}", "-" * (width + 18), *lines])
