"""A guidance sweep's results: the best value by the right direction, the table, and a chart of the right axes."""

import csv
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glotok_ray.report.guidance import Curve, axes_of, best_value, guidance_table, write_curve
from glotok_ray.storage import artefact


def entries(**values: float | None) -> dict[str, Any]:
    """Metrics of samples, and one that is not of samples."""
    found = {
        f"samples_{name}": {"label": name, "value": value, "protocol": f"how {name} was measured"}
        for name, value in values.items()
    }
    return {**found, "validation_own_class": {"label": "ceiling", "value": 1, "protocol": ""}}


def with_inception(best_by: str = "samples_fid") -> Curve:
    """FID is lowest at 2 and undefined at 4; the score rises."""
    points = {
        3.0: entries(fid=7.0, inception_score=90.0, fd_effnet=2.0, own_class=0.9),
        1.0: entries(fid=12.0, inception_score=40.0, fd_effnet=5.0, own_class=0.5),
        2.0: entries(fid=5.0, inception_score=80.0, fd_effnet=3.0, own_class=0.9),
        4.0: entries(fid=None, inception_score=95.0, fd_effnet=6.0, own_class=0.8),
    }
    points[3.0]["samples_inception_score"]["std"] = 1.5
    return Curve(points, best_by)


@pytest.mark.parametrize(
    ("best_by", "best"),
    [
        ("samples_fid", 2),
        ("samples_fd_effnet", 3),
        ("samples_inception_score", 4),
        ("samples_own_class", 2),  # as good as at 3
    ],
)
def test_the_best_value_is_the_lowest_distance_or_the_highest_score(best_by, best) -> None:
    assert best_value(with_inception(best_by)) == best


def test_without_a_defined_value_none_is_the_best(tmp_path: Path) -> None:
    curve = Curve(
        {1.0: entries(fd_effnet=None, own_class=None), 2.0: entries(fd_effnet=None, own_class=0.5)},
        "samples_fd_effnet",
    )
    assert best_value(curve) is None
    write_curve(curve, tmp_path, sampler={})
    facts = artefact.read_json(tmp_path / "guidance.json")
    assert facts["best"] is None
    assert "no value is defined by fd_effnet" in guidance_table(facts)


def test_all_of_a_sweep_is_written(tmp_path: Path) -> None:
    write_curve(with_inception(), tmp_path, sampler={"num_steps": 50, "guidance_scale": 9})
    with (tmp_path / "guidance.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["guidance_scale"] for row in rows] == ["1.0", "2.0", "3.0", "4.0"]
    assert [row["samples_fid"] for row in rows] == ["12.0", "5.0", "7.0", ""]
    assert [row["samples_inception_score_std"] for row in rows] == ["", "", "1.5", ""]
    assert "validation_own_class" not in rows[0]
    facts = artefact.read_json(tmp_path / "guidance.json")
    assert (facts["best"], facts["best_by"], facts["higher_is_better"]) == (2, "samples_fid", False)
    assert facts["sampler"] == {"num_steps": 50}
    assert facts["protocols"]["4"]["samples_fid"] == "how fid was measured"
    lines = guidance_table(facts).splitlines()
    assert lines[0] == "| guidance | fd_effnet | fid | inception_score | own_class |"
    assert lines[3] == "| 2 (best) | 3 | 5 | 80 | 0.9 |"
    assert lines[5] == "| 4 | 6 | - | 95 | 0.8 |"
    assert lines[-1] == "best guidance 2 by fid"
    with Image.open(tmp_path / "guidance.png") as chart:
        assert chart.size == (1350, 630)


def test_the_curve_is_fid_over_inception_score_where_they_were_measured() -> None:
    assert axes_of(with_inception()) == ("samples_inception_score", "samples_fid")
    own = Curve({1.0: entries(fd_effnet=1.0, own_class=0.5)}, "samples_fd_effnet")
    assert axes_of(own) == ("samples_own_class", "samples_fd_effnet")
