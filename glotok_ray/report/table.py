"""The results of a whole pipeline as plain text, for the end of a terminal session."""

from collections.abc import Mapping
from typing import Any

from glotok_ray.report.headlines import Headline, Source, headlines
from glotok_ray.report.stage_times import status_text, time_text

_BRANCHES = ("semantic", "visual")


def results_table(answer: Mapping[str, Any]) -> str:
    """Stages with seconds, every metric, the relation KL before and after, the few numbers that matter beside their
    chance levels and baselines, and where the report lies.
    """
    stages = [(row["stage"], time_text(row), status_text(row)) for row in answer["stages"]]
    metrics = [
        (_label(name, entry), _number(entry), "") for name, entry in answer["metrics"].items()
    ]
    relation = answer["relation"]
    metrics += [
        ("relation KL at initialisation", f"{relation['kl_initial']:.4g}", ""),
        ("relation KL at the end", f"{relation['kl_final']:.4g}", ""),
    ]
    source = Source(answer["metrics"], relation, answer["twin_relation"])
    short = [(line.what, _values(line), line.beside) for line in headlines(source)]
    blocks = [
        _block("stage", stages),
        _block("metric", metrics),
        _block("the numbers that matter", short),
        f"report: {answer['report']}",
    ]
    return "\n\n".join(blocks) + "\n"


def _label(name: str, entry: Mapping[str, Any]) -> str:
    # Both codebooks have metrics of one name; the page puts them under a heading each.
    branch = name.removeprefix("twin_").split("_")[0]
    label = entry.get("label", name)
    return f"{branch}: {label}" if branch in _BRANCHES else label


def _number(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "undefined"
    spread = f" +- {entry['std']:.2g}" if entry.get("std") is not None else ""
    return f"{entry['value']:.4g}{spread}"


def _values(line: Headline) -> str:
    return ", ".join(f"{model} {value}".strip() for model, value in line.values.items())


def _block(title: str, rows: list[tuple[str, str, str]]) -> str:
    names = max((len(name) for name, *_ in rows), default=len(title))
    values = max(16, max((len(value) for _, value, _ in rows), default=0))
    lines = [f"{name:<{names}}  {value:>{values}}  {note}".rstrip() for name, value, note in rows]
    return "\n".join([f"{title}", "-" * (names + values + 2), *lines])
