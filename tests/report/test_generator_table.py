"""The table of compared generators: measured rows first, the paper's others below them."""

import csv
import io

from glotok_ray.report.generator_table import (
    IMAGES_PER_SECOND,
    GeneratorRow,
    comma_separated,
    markdown,
)

LABELS = {"samples_fid": "FID", "samples_inception_score": "Inception Score"}


def row(name: str, place: int | None, **metrics: float | None) -> GeneratorRow:
    return GeneratorRow(
        name=name,
        architecture="VAR",
        parameters=310_283_520,
        tokens=680,
        evaluations=20,
        sampling="guidance 1.5, seed 0",
        recipe="",
        row=place,
        metrics=metrics,
    )


def test_measured_rows_stand_beside_published_numbers_and_above_the_others() -> None:
    rows = [
        row("var_d16", 9, samples_fid=3.5, **{IMAGES_PER_SECOND: 12.345}),
        row("mine", None, samples_fid=None),
    ]
    text = markdown(rows, LABELS, title="TITLE", protocol="PROTOCOL.")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2] == (
        "| var_d16 | VAR | 310.3 M | 680 | 20 | guidance 1.5, seed 0 | 3.30 | 274.4 | 3.5 | - | 12.35 |"
    )
    assert lines[3].startswith("| mine | VAR |")
    assert lines[3].endswith("| - | - | - | - | - |")
    # 20 rows of the paper, one of which was measured.
    assert len(lines) == 2 + 2 + 19
    assert not any("VAR-d16" in line for line in lines)
    assert any("*VAR-d24*" in line and "| 2.09 | 312.9 |" in line for line in lines)
    # What sources say otherwise.
    assert "- var_d16, tokens: VAR predicts 680 tokens" in text


def test_the_csv_holds_all_values_unrounded() -> None:
    rows = [row("var_d16", 9, samples_fid=3.123456789)]
    found = list(csv.DictReader(io.StringIO(comma_separated(rows, LABELS))))
    assert (found[0]["published_gfid"], found[0]["samples_fid"]) == ("3.3", "3.123456789")
    assert len(found) == 20
    assert found[1]["name"] == "VQGAN (paper)"
    assert found[1]["samples_fid"] == ""
