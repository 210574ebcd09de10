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
        "report": "runs/report.html",
    }
    lines = results_table(answer).splitlines()
    assert any(line.split() == ["data", "3", "s", "made"] for line in lines)
    assert any("PSNR (dB)" in line and "23.46 +- 1" in line for line in lines)
    assert any(line.startswith("semantic: Usage") and line.endswith("1") for line in lines)
    assert any(line.startswith("visual: Usage") and line.endswith("undefined") for line in lines)
    assert lines[-1] == "report: runs/report.html"
