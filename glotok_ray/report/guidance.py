"""What a guidance sweep leaves: guidance.csv, guidance.json and the curve as guidance.png.

Read next: glotok_ray/report/plots.py, glotok_ray/report/sample_rows.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.report.sample_rows import (
    Entries,
    labels_and_protocols,
    metrics_of_samples,
    rows_table,
    sample_rows,
    write_rows,
)
from glotok_ray.storage import artefact

CSV_FILE, JSON_FILE, PLOT_FILE = "guidance.csv", "guidance.json", "guidance.png"
SCALE = "guidance_scale"
HIGHER_IS_BETTER = ("samples_inception_score", "samples_own_class")
_PAIRS = (
    ("samples_inception_score", "samples_fid_reference"),
    ("samples_inception_score", "samples_fid"),
    ("samples_own_class", "samples_fd_effnet"),
)
"""Axes of the curve: what guidance raises, and what it lowers and raises again. The first pair that was measured."""


class Curve(NamedTuple):
    """The metrics of samples at every guidance scale."""

    measured: Mapping[float, Entries]
    """Entries of metrics.json by scale."""
    best_by: str
    """Name of the metric that chooses."""

    @property
    def names(self) -> list[str]:
        """Metrics of samples, those of the first value."""
        return metrics_of_samples(self.measured)

    def values(self, name: str) -> dict[float, float | None]:
        """One metric by scale, in rising order; None where it is undefined."""
        return {scale: self.measured[scale][name]["value"] for scale in sorted(self.measured)}


def best_value(curve: Curve) -> float | None:
    """The scale whose samples are the best by `best_by`, the lower one of equals; None where none has a value."""
    values = {
        scale: value for scale, value in curve.values(curve.best_by).items() if value is not None
    }
    if not values:
        return None
    sign = -1 if curve.best_by in HIGHER_IS_BETTER else 1
    return min(values, key=lambda scale: (sign * values[scale], scale))


def write_curve(curve: Curve, folder: Path, *, sampler: Mapping[str, Any]) -> None:
    """Write table, data and chart; `sampler` are the settings that all values share."""
    # matplotlib takes a second to import, and descriptions of a sweep do without it.
    from glotok_ray.report.plots import plot_guidance

    rising = {scale: curve.measured[scale] for scale in sorted(curve.measured)}
    rows = sample_rows(rising, SCALE)
    write_rows(rows, folder / CSV_FILE)
    artefact.write_json(
        folder / JSON_FILE,
        {
            "best_by": curve.best_by,
            "best": best_value(curve),
            "higher_is_better": curve.best_by in HIGHER_IS_BETTER,
            "sampler": {name: value for name, value in sampler.items() if name != SCALE},
            "values": rows,
            **labels_and_protocols({f"{scale:g}": rising[scale] for scale in rising}),
        },
    )
    across, up = axes_of(curve)
    plot_guidance(curve, across, up, best_value(curve), folder / PLOT_FILE)


def axes_of(curve: Curve) -> tuple[str, str]:
    """The metrics across and up."""
    return next(pair for pair in _PAIRS if set(pair) <= set(curve.names))


def guidance_table(facts: Mapping[str, Any]) -> str:
    """The values of guidance.json as Markdown, the best one marked."""
    labels, rows = facts["labels"], facts["values"]
    scales = [
        f"{row[SCALE]:g}" + (" (best)" if row[SCALE] == facts["best"] else "") for row in rows
    ]
    table = rows_table(rows, labels, ["guidance", *scales])
    best = "no value is defined" if facts["best"] is None else f"best guidance {facts['best']:g}"
    return f"{table}\n\n{best} by {labels[facts['best_by']]}\n"
