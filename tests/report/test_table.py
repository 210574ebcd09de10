"""The table at the end of a terminal session."""

from glotok_ray.report.table import results_table


def test_every_figure_is_named_once_and_undefined_ones_are_said():
    answer = {
        "stages": [{"stage": "data", "seconds": 3.4, "status": "made"}],
        "metrics": {
            "reconstruction_psnr": {"label": "PSNR (dB)", "value": 23.456, "std": 1.0},
            "semantic_usage": {"label": "Usage", "value": 1.0},
            "visual_usage": {"label": "Usage", "value": None},
        },
        "relation": {"kl_initial": 0.2, "kl_final": 0.1},
        "twin_relation": None,
        "report": "runs/report.html",
    }
    lines = results_table(answer).splitlines()
    assert any(line.split() == ["data", "3", "s", "made"] for line in lines)
    assert any("PSNR (dB)" in line and "23.46 +- 1" in line for line in lines)
    assert any(line.startswith("semantic: Usage") and line.endswith("1") for line in lines)
    assert any(line.startswith("visual: Usage") and line.endswith("undefined") for line in lines)
    assert lines[-1] == "report: runs/report.html"


def test_the_short_table_stands_last_with_chance_levels_beside():
    own = {"label": "Own class of samples", "value": 0.68, "chance": 0.1}
    answer = {
        "stages": [{"stage": "data", "seconds": 3.4, "status": "made"}],
        "metrics": {
            "samples_own_class": own,
            "far_samples_own_class": {**own, "value": 0.6, "label": "Own class of FAR"},
            "twin_semantic_usage": {"label": "Usage without the relation loss", "value": 0.5},
        },
        "relation": {"kl_initial": 0.2, "kl_final": 0.1},
        "twin_relation": {"kl_initial": 0.2, "kl_final": 0.15},
        "report": "runs/report.html",
    }
    text = results_table(answer)
    short = text[text.index("the numbers that matter") :].splitlines()
    assert any("xAR 68 %, FAR 60 %" in line and "Chance 10 %." in line for line in short)
    assert any("0.1" in line and "Without the relation loss 0.15" in line for line in short)
    assert "semantic: Usage without the relation loss" in text
    assert short[-1] == "report: runs/report.html"


def test_a_time_that_is_not_wholly_known_is_said_so():
    begun = {"seconds": None, "began_unix_s": 1.0}
    row = {"stage": "far", "seconds": 12.0, "status": "made"}
    rows = [
        {**row, "attempts": [begun, {"seconds": 12.0, "began_unix_s": 9.0}]},
        {**row, "stage": "data", "seconds": 0.0, "status": "recognised", "attempts": [begun]},
    ]
    relation = {"kl_initial": 0.2, "kl_final": 0.1}
    answer = {"stages": rows, "metrics": {}, "relation": relation, "twin_relation": None}
    lines = [line.split() for line in results_table({**answer, "report": "r"}).splitlines()]
    assert ["far", "at", "least", "12", "s", "made,", "resumed:", "2", "attempts"] in lines
    assert ["data", "not", "known", "recognised"] in lines
