"""metrics.jsonl: names in order, finite values, and the last one."""

import pytest

from glotok_ray.report.metric_log import metric_names, points, read_metric_lines

LOG = [
    {"step": 1, "train/b": 2.0, "time/x": 1.0},
    {"step": 2, "eval/a": 0.5, "train/b": float("inf")},
    {"step": 3, "train/a": 1},
]


def test_names_are_training_first_and_values_finite():
    assert metric_names(LOG) == ["train/a", "train/b", "eval/a"]
    assert points(LOG, "train/b").tolist() == [[1.0], [2.0]]


def test_a_cut_last_line_is_left_out_and_a_broken_one_inside_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"event": "start"}\n{"ste')
    assert read_metric_lines(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_metric_lines(path)
