"""Plots as PNG files beside the results: a sweep's trials, a guidance sweep's curve and a teacher's cosines.

Drawn through matplotlib's object interface: no global figure state, no display. The charts of the page are drawn
without it: glotok_ray/report/charts.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glotok_ray.config.losses import RelationConfig
from glotok_ray.losses.relation import histogram_bins, rebin
from glotok_ray.report.guidance import Curve
from glotok_ray.storage.places import writing
from glotok_ray.teacher.histogram import TeacherHistogram

# Mid greys and saturated mid tones keep contrast on white and on near-black alike.
_INK = "#808791"
_COLOURS = ("#2f7fd6", "#e0762f", "#2c9f62", "#b058c9")
_STYLE: dict[Any, Any] = {
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "axes.titlesize": 10,
}
# Bars of a density over cosines from -1 to 1; a power of two, as the stored nodes mostly are, so that bars hold
# equally many.
_BARS = 256


def plot_sweep(points: Sequence[tuple[str, float, float]], metric: str, path: Path) -> None:
    """A sweep's trials as a PNG: name, distance of the codebook's cosines to the teacher's, and the metric that
    reconstructions are judged by.
    """
    with rc_context(_STYLE):
        figure, axes = _figure(6.4, 4.2)
        for name, distance, value in points:
            axes.scatter(distance, value, s=45, color=_COLOURS[0])
            axes.annotate(
                name.removeprefix("trial_"),
                (distance, value),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set_xlabel(
            "Wasserstein-1 distance of the codebook's cosines to the teacher's, lower is better"
        )
        axes.set_ylabel(f"{metric} of validation reconstructions")
        figure.patch.set(facecolor="white", alpha=1)
        with writing(path) as local:
            figure.savefig(local, dpi=150, format="png")


def plot_guidance(curve: Curve, across: str, up: str, best: float | None, path: Path) -> None:
    """A guidance sweep as a PNG: the metric `up` over the metric `across`, a point per guidance scale that has both,
    in rising order, and beside it `up` over the scale; the best scale is marked.
    """
    entries = next(iter(curve.measured.values()))
    heights = {scale: value for scale, value in curve.values(up).items() if value is not None}
    widths = curve.values(across)
    both = [scale for scale in heights if widths[scale] is not None]
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(
            [widths[scale] for scale in both],
            [heights[scale] for scale in both],
            "o-",
            color=_COLOURS[0],
        )
        for scale in both:
            left.annotate(
                f"{scale:g}",
                (widths[scale], heights[scale]),
                xytext=(9, 8),
                textcoords="offset points",
                fontsize=8,
            )
        right.plot(list(heights), list(heights.values()), "o-", color=_COLOURS[0])
        if best in both:
            left.plot(widths[best], heights[best], "*", markersize=15, color=_COLOURS[1])
        if best in heights:
            name = f"best by {entries[curve.best_by]['label']}: {best:g}"
            right.plot(best, heights[best], "*", markersize=15, color=_COLOURS[1], label=name)
            right.legend(frameon=False, fontsize=8)
        left.set_xlabel(f"{entries[across]['label']}, higher is better")
        right.set_xlabel("guidance scale (1 is unguided)")
        for axes in (left, right):
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.set_ylabel(f"{entries[up]['label']}, lower is better")
        with writing(path) as local:
            figure.savefig(local, dpi=150, format="png")


def draw_teacher(
    teacher: TeacherHistogram, path: Path, *, student_width: int, student_size: int
) -> None:
    """A teacher's cosines as a PNG: their density, P_t at the default bins, mean and spread, and the
    least spread that a codebook of the student's width and size can have at this mean.
    """
    check = teacher.floor_check(width=student_width, size=student_size)
    edges = np.linspace(-1, 1, _BARS + 1)
    fine = teacher.fine_histogram.numpy()
    shares, _ = np.histogram(np.linspace(-1, 1, len(fine)), edges, weights=fine / fine.sum())
    bars = shares * _BARS / 2
    # Not `distribution`: nodes too coarse for training still make an image.
    relation = RelationConfig()
    bins = histogram_bins(relation.num_bins).numpy()
    counts = rebin(teacher.fine_histogram, relation).numpy()
    density = counts / counts.sum() / (bins[1] - bins[0])
    with rc_context(_STYLE):
        figure, axes = _figure(7.2, 4.4)
        axes.stairs(bars, edges, fill=True, color=_INK, alpha=0.4, label="cosines of all pairs")
        name = f"P_t, {relation.num_bins} bins, alpha {relation.sharpness:.0f}"
        axes.plot(bins, density, color=_COLOURS[0], linewidth=1.6, label=name)
        top = 1.2 * max(density.max(), bars.max())
        axes.set_ylim(0, top)
        for height, spread, colour, name in (
            (0.95, check.std, _COLOURS[0], "teacher"),
            (0.89, check.smallest_std, _COLOURS[1], f"narrowest at width {student_width}"),
        ):
            axes.errorbar(
                check.mean,
                height * top,
                xerr=spread,
                fmt="o",
                color=colour,
                capsize=4,
                markersize=4,
                label=f"{name}: mean {check.mean:z.3f} \u00b1 std {spread:.3f}",
            )
        verdict = "can" if check.reachable else "cannot"
        axes.set_title(
            f"{len(teacher.centroids)} centroids of width {teacher.centroids.shape[1]}: "
            f"{student_size} codes of width {student_width} {verdict} spread this narrowly",
            loc="left",
        )
        axes.set_xlim(-1, 1)
        axes.set_xlabel("cosine between two centroids")
        axes.set_ylabel("density")
        figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
        figure.patch.set(facecolor="white", alpha=1)
        with writing(path) as local:
            figure.savefig(local, dpi=150, format="png")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes
