"""Charts inside the page: where points lie, which ticks stand beside them, and what has no chart."""

import re

import numpy as np

from glotok_ray.report.charts import Frame, Line, chart
from glotok_ray.report.curves import all_metric_charts, metric_chart, relation_chart, usage_chart

FRAME = Frame(alt="a <b> chart", x_label="step", y_label="loss")


def line(x: list[float], y: list[float], style: str = "first", label: str = "") -> Line:
    return Line(label, np.array(x), np.array(y), style)


def path(html: str) -> list[tuple[float, float]]:
    found = re.search(r'class="line [^"]*" d="M([^"]*)"', html)
    assert found is not None
    return [tuple(map(float, corner.split())) for corner in found[1].split("L")]


def ticks(html: str, axis: str) -> list[str]:
    return re.findall(rf'<span class="{axis}"[^>]*>([^<]*)</span>', html)


def test_points_lie_where_their_values_say() -> None:
    frame = Frame(alt="a", x_label="x", y_label="y", x_limits=(0, 10), from_zero=True)
    corners = path(chart([line([0, 5, 10], [0, 1, 2])], frame))
    assert [x for x, _ in corners] == [0, 500, 1000]
    assert corners[0][1] == 1000
    steps = np.diff([y for _, y in corners])
    assert steps[0] < -400
    np.testing.assert_allclose(steps[0], steps[1], atol=0.2)


def test_ticks_are_round_and_text_is_escaped() -> None:
    html = chart([line([0, 1200], [-1, 1], label="<i>")], FRAME)
    assert ticks(html, "x") == ["0", "500", "1,000"]
    assert ticks(html, "y") == ["\u22121", "\u22120.5", "0", "0.5", "1"]
    assert 'aria-label="a &lt;b&gt; chart"' in html
    assert "&lt;i&gt;</li>" in html


def test_decades_stand_at_equal_distances() -> None:
    frame = Frame(alt="a", x_label="x", y_label="y", logarithmic=True)
    html = chart([line([0, 1, 2], [0.01, 0.1, 1])], frame)
    heights = [y for _, y in path(html)]
    assert abs((heights[0] - heights[1]) - (heights[1] - heights[2])) < 0.2
    assert ticks(html, "y") == ["0.01", "0.1", "1"]


def test_a_constant_or_a_single_point_has_a_chart_and_no_point_has_none() -> None:
    assert path(chart([line([3, 4], [2, 2])], FRAME))[0][1] == 500
    assert path(chart([line([3], [0])], FRAME)) == [(500, 500)]
    assert chart([line([], [])], FRAME) == ""


def test_a_long_line_keeps_its_ends() -> None:
    steps = list(range(5001))
    corners = path(chart([line(steps, steps)], FRAME))
    assert len(corners) <= 302
    assert corners[-1][0] > corners[0][0]
    assert max(y for _, y in corners) == corners[0][1]


def test_dots_are_drawn_beside_the_line_and_not_by_it() -> None:
    html = chart([line([0, 1], [0, 1], "first dots")], FRAME)
    assert 'class="line first"' in html
    assert 'class="dots first dots"' in html


def test_histograms_of_twins_are_in_one_chart_over_the_teachers() -> None:
    histograms = ("teacher", "student_initial", "student_final")
    relation = {"bins": [-1, 0, 1], **{name: [0.2, 0.5, 0.3] for name in histograms}}
    alone, both = relation_chart(relation, None), relation_chart(relation, relation)
    assert "without the relation loss" not in alone
    assert "without the relation loss" in both
    # The grid, the teacher's area, and a line each.
    assert alone.count("<path") == 2 + 3
    assert both.count("<path") == 2 + 4
    assert both.count('class="area teacher"') == 2
    assert ticks(both, "x")[0] == "\u22121"


def test_noise_is_faint_beside_its_mean_and_few_points_are_dots() -> None:
    noise = np.random.default_rng(0).normal(5, 1, size=200)
    log = [{"step": step, "train/a": float(value)} for step, value in enumerate(noise)]
    html = metric_chart("train/a", {"": log})
    assert html.count("<path") == 3
    assert "faint" in html
    assert "dots" in metric_chart("train/a", {"": log[:5]})


def test_values_that_are_not_finite_or_no_numbers_are_left_out() -> None:
    log = [{"step": 0, "train/a": float("nan"), "train/b": "text"}, {"step": 1, "train/a": 2.0}]
    charts = all_metric_charts(log)
    assert len(charts) == 1
    assert len(path(charts[0])) == 1


def test_codes_that_never_occur_are_counted() -> None:
    html = usage_chart({"visual": np.array([0, 3, 1, 0]), "semantic": np.zeros(4, int)})
    assert "visual: 2 of 4 codes occur" in html
    assert usage_chart({}) == ""
