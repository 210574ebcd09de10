"""The charts of a sweep's page: parallel coordinates, reconstruction against cosine distance, and curves of trials.

Read next: glotok_ray/report/charts.py
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from glotok_ray.config.sweeps import SweepRun
from glotok_ray.report.charts import Frame, Line, chart
from glotok_ray.report.markup import number, text
from glotok_ray.report.sweep_summary import label, loss_of
from glotok_ray.training.trials import STEP, TrialRecord

DISTANCE = "cosine_distance"
_SIDE = 1000.0
_STYLES = {"finished": "first", "stopped": "third", "failed": "second"}


class Point(NamedTuple):
    """A trial in the plane of reconstruction and distance."""

    record: TrialRecord
    distance: float
    value: float


def points_of(config: SweepRun, records: Sequence[TrialRecord]) -> list[Point]:
    """The trials that came to the end and have both numbers."""
    return [
        Point(record, record.last[DISTANCE], record.last[config.judged_by])
        for record in records
        if record.status == "finished"
        and record.last.get(DISTANCE) is not None
        and math.isfinite(loss_of(config, record.last))
    ]


def pareto_front(config: SweepRun, points: Sequence[Point]) -> list[Point]:
    """Those that no other trial beats in both, by rising distance."""
    sign = -1 if config.higher_is_better else 1
    front: list[Point] = []
    for point in sorted(points, key=lambda item: (item.distance, sign * item.value)):
        if not front or sign * point.value < sign * front[-1].value:
            front.append(point)
    return front


def pareto_chart(config: SweepRun, records: Sequence[TrialRecord]) -> str:
    """Reconstruction over the distance, the trials that none beats in both joined by a line."""
    points = points_of(config, records)
    front = pareto_front(config, points)
    lines = [
        Line("not beaten in both", _xs(front), _ys(front), "first dots"),
        *(
            Line(
                "" if place else "other trials that came to the end",
                _xs([point]),
                _ys([point]),
                "third dots",
            )
            for place, point in enumerate(item for item in points if item not in front)
        ),
        *(
            Line("without relation loss", _xs([point]), _ys([point]), "second dots")
            for point in points
            if point.record.trial.changes == {"loss.relation_weight": 0.0}
        ),
    ]
    judged = label(config.judged_by)
    return chart(
        lines,
        Frame(
            alt=f"{judged} of the trials over the distance of their cosines to the teacher's",
            x_label="Wasserstein-1 distance of the codebook's cosines to the teacher's, lower is better",
            y_label=f"{judged}, {'higher' if config.higher_is_better else 'lower'} is better",
        ),
    )


def progress_chart(config: SweepRun, records: Sequence[TrialRecord]) -> str:
    """The metric over steps, a line per trial."""
    seen: set[str] = set()
    lines = []
    for record in records:
        found = [row for row in record.reports if math.isfinite(loss_of(config, row))]
        name = "" if record.status in seen else {"": "unfinished"}.get(record.status, record.status)
        seen.add(record.status)
        lines.append(
            Line(
                name,
                np.array([row[STEP] for row in found], float),
                np.array([row[config.judged_by] for row in found], float),
                f"{_STYLES.get(record.status, 'third')} dots",
            )
        )
    judged = label(config.judged_by)
    return chart(
        lines,
        Frame(alt=f"{judged} of every trial by step", x_label="optimizer step", y_label=judged),
    )


def parallel_chart(config: SweepRun, records: Sequence[TrialRecord]) -> str:
    """Parallel coordinates: an axis per changed field and metric, a line per trial with an evaluation; the darker, the
    better it is by the metric.
    """
    shown = [record for record in records if record.last]
    fields = [*dict.fromkeys(name for record in shown for name in record.trial.changes)]
    names = [*fields, DISTANCE, *(["psnr"] if config.judged_by != "psnr" else []), config.judged_by]
    axes = [_Axis(name, [_value(record, name) for record in shown]) for name in names]
    axes = [axis for axis in axes if axis.known]
    if len(axes) < 2:
        return ""
    order = sorted(shown, key=lambda record: loss_of(config, record.last), reverse=True)
    drawn = "".join(
        _line(axes, record, place / max(1, len(order) - 1)) for place, record in enumerate(order)
    )
    bars = "".join(f"M{_x(place, len(axes)):.1f} 0V{_SIDE:.0f}" for place in range(len(axes)))
    heads = "".join(_head(axis, place, len(axes)) for place, axis in enumerate(axes))
    return (
        '<div class="chart parallel"><div class="plot">'
        '<svg role="img" aria-label="Parallel coordinates of the trials" viewBox="0 0 1000 1000" '
        f'preserveAspectRatio="none"><path class="grid" d="{bars}"/>{drawn}</svg>{heads}</div></div>'
    )


class _Axis:
    """Values of one name, placed from 0 to 1: words in the order they appear, numbers by their logarithm where they
    span more than a decade.
    """

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        self.known = [value for value in values if value is not None]
        self._words = [*dict.fromkeys(map(str, self.known))] if _is_words(self.known) else []
        numbers = [] if self._words else [float(value) for value in self.known]
        above = [value for value in numbers if value > 0]
        self._logarithmic = bool(above) and min(numbers) >= 0 and max(above) > 10 * min(above)
        self._smallest = min(above, default=1.0)
        self.low, self.high = min(numbers, default=0.0), max(numbers, default=0.0)

    def place(self, value: Any) -> float:
        """From 0 (low) to 1 (high)."""
        if self._words:
            return (self._words.index(str(value)) + 0.5) / len(self._words)
        low, high = self._scaled(self.low), self._scaled(self.high)
        return 0.5 if high == low else (self._scaled(float(value)) - low) / (high - low)

    @property
    def ends(self) -> tuple[str, str]:
        """What stands at the low and at the high end."""
        if self._words:
            return self._words[0], self._words[-1]
        return number(self.low), number(self.high)

    def _scaled(self, value: float) -> float:
        # 0 has a place of its own, half a decade below the smallest number.
        return math.log10(max(value, self._smallest / 3)) if self._logarithmic else value


def _is_words(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str | bool) for value in values)


def _value(record: TrialRecord, name: str) -> Any:
    values: Mapping[str, Any] = {**record.last, **record.trial.changes}
    return values.get(name)


def _x(place: int, count: int) -> float:
    return _SIDE * place / (count - 1)


def _line(axes: Sequence[_Axis], record: TrialRecord, goodness: float) -> str:
    """A trial's line, broken where it has no value."""
    path, joined = "", False
    for place, axis in enumerate(axes):
        value = _value(record, axis.name)
        if value is None:
            joined = False
            continue
        spot = f"{_x(place, len(axes)):.1f} {_SIDE * (1 - axis.place(value)):.1f}"
        path += ("L" if joined else "M") + spot
        joined = True
    style = f"opacity:{0.15 + 0.85 * goodness**2:.2f}"
    return (
        f'<path class="line {_STYLES.get(record.status, "third")}" style="{style}" d="{path}">'
        f"<title>{text(record.trial.name)}</title></path>"
    )


def _head(axis: _Axis, place: int, count: int) -> str:
    left = f"left:{_x(place, count) / 10:.1f}%"
    low, high = axis.ends
    return (
        f'<span class="x low" style="{left}">{text(low)}<br><b>{text(label(axis.name))}</b></span>'
        f'<span class="high" style="{left}">{text(high)}</span>'
    )


def _xs(points: Sequence[Point]) -> np.ndarray:
    return np.array([point.distance for point in points], float)


def _ys(points: Sequence[Point]) -> np.ndarray:
    return np.array([point.value for point in points], float)
