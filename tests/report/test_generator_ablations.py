"""The ablation tables of xAR: every row's place, published numbers, and what was not trained."""

import math

from glotok_ray.recipes.generator_ablations import ROWS
from glotok_ray.report import generator_ablations
from glotok_ray.report.generator_ablations import ablation_tables


def test_every_row_of_the_recipes_has_a_place_and_every_place_a_row() -> None:
    measured = {
        row: {"fd_effnet": 100.0 + number, "evaluations_per_image": number}
        for number, row in enumerate(ROWS)
    }
    table = ablation_tables(measured, scale="ten steps of two images")
    lines = table.splitlines()
    assert lines[0].startswith("Small scale: ten steps of two images.")
    assert "| cell | 2.48 | 269.2 | 100 | 0 |" in lines
    assert "| 8 | 2.48 | 269.2 | 100 | 0 |" in lines
    assert "| random noise | 2.48 | 269.2 | 100 | 0 |" in lines
    # Cells of one position are tokens, and a cell of the whole grid is the image.
    assert "| 1 | 3.51 | 251.4 | 101 | 1 |" in lines
    assert "| token | 3.51 | 251.4 | 101 | 1 |" in lines
    assert "| 16 | 3.13 | 253.4 | 104 | 4 |" in lines
    assert "| 2 | 3.04 | - | 102 | 2 |" in lines
    assert "| clean (teacher forcing) | 3.45 | 243.5 | 107 | 7 |" in lines
    rows = {row.row for _, table_rows in generator_ablations.TABLES.values() for row in table_rows}
    assert rows == set(ROWS)


def test_a_table_without_a_trained_row_is_left_out_and_an_undefined_distance_is_a_dash() -> None:
    measured = {"clean": {"fd_effnet": math.nan, "evaluations_per_image": 37}}
    table = ablation_tables(measured, scale="small")
    assert "**Context in training (xAR, Table 5)**" in table
    assert "Size of a cell" not in table
    assert "random noise" not in table
    assert "| clean (teacher forcing) | 3.45 | 243.5 | - | 37 |" in table
