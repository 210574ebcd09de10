"""The charts of the page: histograms of cosines, losses over steps, and how often codes occur.

Read next: glotok_ray/report/charts.py
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from glotok_ray.report.charts import Frame, Line, chart
from glotok_ray.report.metric_log import MetricLog, metric_names, points

_COLOURS = ("first", "second", "third", "fourth")
_LOG_RANGE = 30.0
_FEW_POINTS = 15
_NOISY_POINTS = 40
_MEANS = 25
# Cosines where every histogram is below this share of the highest bar are left out.
_SHOWN_SHARE = 0.002


def relation_chart(relation: Mapping[str, Any], twin: Mapping[str, Any] | None) -> str:
    """Shares of pairs over their cosine: the teacher's, and the codebook's at the start and at the end of training,
    with the relation loss and, where there is a twin, without it.
    """
    bins = np.asarray(relation["bins"], dtype=np.float64)

    def line(label: str, found: Mapping[str, Any], name: str, style: str) -> Line:
        values = np.asarray(found[name], dtype=np.float64)
        return Line(label, np.asarray(found["bins"], np.float64), values, style)

    lines = [
        line("teacher", relation, "teacher", "teacher")._replace(filled=True),
        line("before training", relation, "student_initial", "third dashed"),
    ]
    if twin is not None:
        lines.append(line("without the relation loss", twin, "student_final", "second"))
    lines.append(line("with the relation loss", relation, "student_final", "first"))
    seen = np.max([np.interp(bins, line.x, line.y) for line in lines], axis=0)
    shown = bins[seen > _SHOWN_SHARE * seen.max()]
    frame = Frame(
        alt="Cosine histograms: " + ", ".join(line.label for line in lines),
        x_label="cosine between two codes",
        y_label="share of pairs",
        x_limits=(float(shown.min()), float(shown.max())),
        from_zero=True,
    )
    return chart(lines, frame)


def metric_chart(name: str, logs: Mapping[str, MetricLog], title: str = "") -> str:
    """One metric over the steps, one line per log, by its label; noise is faint beside its running mean."""
    lines: list[Line] = []
    for (label, log), colour in zip(logs.items(), _COLOURS, strict=False):
        steps, values = points(log, name)
        if len(steps) > _NOISY_POINTS:
            lines.append(Line("", steps, values, f"{colour} faint"))
            steps, values = _running_mean(steps), _running_mean(values)
        dots = " dots" if len(steps) < _FEW_POINTS else ""
        lines.append(Line(label, steps, values, colour + dots))
    title = title or name.replace("_", " ")
    values = np.concatenate([line.y for line in lines]) if lines else np.array([])
    frame = Frame(
        alt=f"{title} over training steps",
        x_label="step",
        y_label=title,
        logarithmic=len(values) > 0
        and values.min() > 0
        and values.max() > _LOG_RANGE * values.min(),
    )
    return chart(lines, frame)


def all_metric_charts(log: MetricLog) -> list[str]:
    """One chart per "train/..." and "eval/..." name of a log that has values."""
    charts = (metric_chart(name, {"": log}) for name in metric_names(log))
    return [drawn for drawn in charts if drawn]


def _running_mean(values: ndarray) -> ndarray:
    width = -(-len(values) // _MEANS)
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def usage_chart(counts: Mapping[str, Int[ndarray, " n"]]) -> str:
    """Occurrences of codes by rank, one line per codebook; dashed is its even use."""
    lines: list[Line] = []
    for (branch, values), colour in zip(counts.items(), _COLOURS, strict=False):
        ranked = np.sort(np.asarray(values, dtype=np.float64))[::-1]
        used = ranked[ranked > 0]
        ranks = np.arange(1, len(used) + 1) / len(ranked)
        label = f"{branch}: {len(used)} of {len(ranked)} codes occur"
        lines.append(Line(label, ranks, used, colour))
        if len(used):
            even = np.full(2, ranked.mean())
            lines.append(Line("", np.array([0.0, 1.0]), even, f"{colour} dashed"))
    frame = Frame(
        alt="How often each code occurs: " + "; ".join(line.label for line in lines if line.label),
        x_label="rank of the code / size of the codebook",
        y_label="occurrences",
        x_limits=(0, 1),
        logarithmic=True,
    )
    return chart(lines, frame)
