"""Line charts as SVG inside the page: colours come from the style sheet, so a chart is as light or dark as its page.

The drawing stretches to its frame while lines keep their width; labels are HTML, so they keep their size on a phone.
Read next: glotok_ray/report/curves.py
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from glotok_ray.report.markup import text

# The drawing's own units; the browser stretches them to the frame.
_SIDE = 1000.0
_MOST_POINTS = 300
_TICKS = 4
_MOST_DECADES = 5


class Line(NamedTuple):
    """One line of a chart."""

    label: str
    """Its name in the key; empty for none."""
    x: Float[ndarray, " n"]
    y: Float[ndarray, " n"]
    style: str
    """Classes of the style sheet: "first", "second", "third" or "teacher", and "dashed", "faint" or "dots"."""
    filled: bool = False
    """Whether the area down to the horizontal axis is filled."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What lies around the lines."""

    alt: str
    """What the chart shows, for those who cannot see it."""
    x_label: str
    y_label: str
    x_limits: tuple[float, float] | None = None
    from_zero: bool = False
    logarithmic: bool = False
    """Decades on the vertical axis; values must be above 0."""


def chart(lines: Sequence[Line], frame: Frame) -> str:
    """The chart with its key as HTML; empty without points."""
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return ""
    x_ticks, x_span = _linear(np.concatenate([line.x for line in lines]), frame.x_limits)
    heights = np.concatenate([line.y for line in lines])
    if frame.logarithmic:
        y_ticks, y_span = _decades(heights)
    else:
        y_ticks, y_span = _linear(np.append(heights, 0) if frame.from_zero else heights, None)
    place = _Place(x_span, y_span, frame.logarithmic)
    grid = "".join(f"M0 {place.y(tick):.0f}H{_SIDE:.0f}" for tick in y_ticks)
    drawn = "".join(_drawn(line, place) for line in lines)
    labels = "".join(
        f'<span class="y" style="top:{place.y(tick) / 10:.1f}%">{_tick(tick)}</span>'
        for tick in y_ticks
    ) + "".join(
        f'<span class="x" style="left:{place.x(tick) / 10:.1f}%">{_tick(tick)}</span>'
        for tick in x_ticks
    )
    return (
        f'<div class="chart"><div class="y-label">{text(frame.y_label)}</div><div class="plot">'
        f'<svg role="img" aria-label="{text(frame.alt)}" viewBox="0 0 1000 1000" preserveAspectRatio="none">'
        f'<path class="grid" d="{grid}"/>{drawn}</svg>{labels}</div>'
        f'<div class="x-label">{text(frame.x_label)}</div>{_key(lines)}</div>'
    )


class _Place:
    """Where values lie in the drawing; the vertical axis points down there."""

    def __init__(
        self, x_span: tuple[float, float], y_span: tuple[float, float], logarithmic: bool
    ) -> None:
        self._x_span, self._logarithmic = x_span, logarithmic
        self._y_span = (self._height(y_span[0]), self._height(y_span[1]))

    def x(self, value: float) -> float:
        low, high = self._x_span
        return _SIDE * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._y_span
        return _SIDE * (high - self._height(value)) / (high - low)

    def _height(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value


def _drawn(line: Line, place: _Place) -> str:
    stride = -(-len(line.x) // _MOST_POINTS)
    kept = np.unique(np.append(np.arange(0, len(line.x), stride), len(line.x) - 1))
    corners = [
        (place.x(x), place.y(y))
        for x, y in zip(line.x[kept].tolist(), line.y[kept].tolist(), strict=True)
    ]
    style = line.style.replace(" dots", "")
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    area = f"{path}V{_SIDE:.0f}H{corners[0][0]:.1f}Z"
    filled = f'<path class="area {style}" d="{area}"/>' if line.filled else ""
    # A line without length has round ends, and is a dot of any size in a stretched drawing.
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in corners)
    marked = f'<path class="dots {line.style}" d="{dots}"/>' if "dots" in line.style else ""
    return f'{filled}<path class="line {style}" d="{path}"/>{marked}'


def _key(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><i class="{"area" if line.filled else "line"} {line.style}"></i>{text(line.label)}</li>'
        for line in lines
        if line.label
    )
    return f'<ul class="key">{items}</ul>' if items else ""


def _linear(
    values: ndarray, limits: tuple[float, float] | None
) -> tuple[list[float], tuple[float, float]]:
    """Round ticks, and the span of the axis."""
    low, high = limits or (float(values.min()), float(values.max()))
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / _TICKS
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [step * index for index in range(first, last + 1)]
    margin = 0 if limits else 0.04 * (high - low)
    bottom = low if low == 0 else low - margin
    return ticks, (bottom, high + margin)


def _decades(values: ndarray) -> tuple[list[float], tuple[float, float]]:
    low, high = float(values.min()) / 1.25, float(values.max()) * 1.25
    exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    stride = -(-len(exponents) // _MOST_DECADES) or 1
    return [10.0**exponent for exponent in exponents[::stride]], (low, high)


def _tick(value: float) -> str:
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-4:
        return f"{value:.0e}"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return shown.replace("-", "\u2212")
