"""Every row of the paper's Table 2 has recipes that state what is published of it, or a reason why it has none."""

import pytest

from glotok_ray.recipes import evaluate_images, sample_images, table_2, train_generator
from glotok_ray.report.generator_table import published_table_2

PAPER = published_table_2()


def test_every_row_has_a_recipe_or_a_reason() -> None:
    assert sorted([*table_2.ROWS, *table_2.WITHOUT_RECIPE]) == list(PAPER)
    assert len(set(table_2.ROWS.values())) == len(table_2.ROWS)


@pytest.mark.parametrize(("row", "name"), table_2.ROWS.items())
def test_its_recipes_state_the_published_numbers(row: int, name: str) -> None:
    train, sample, evaluate = (
        module.RECIPES[name] for module in (train_generator, sample_images, evaluate_images)
    )
    texts = f"{train.__doc__} {evaluate.__doc__}"
    for column in ("gFID", "IS"):
        if column in PAPER[row]:
            number = PAPER[row][column].printed
            assert number in texts or f"{float(number):.0f}" in texts, (name, column, number)
    assert train().schedule.epochs > 1
    assert sample().generator_path == f"runs/{name}"
    assert evaluate().samples_path == sample().output_path


@pytest.mark.parametrize(("row", "name"), table_2.ROWS.items())
def test_a_run_finds_its_row_and_its_sampling(row: int, name: str) -> None:
    model = train_generator.RECIPES[name]().model
    for folder in (name, f"{name}_imported"):
        assert table_2.row_of(table_2.recipe_of(folder, model)) == row
    sampler = sample_images.RECIPES[name]().sampler
    assert table_2.sampler_of(model, type(sampler)()) == sampler


def test_an_unknown_model_has_neither() -> None:
    model = train_generator.quickstart_var().model
    assert table_2.recipe_of("mine", model) == "quickstart_var"
    assert table_2.row_of("quickstart_var") is None
    assert table_2.recipe_of("mine", train_generator.xar_b().model) == ""  # also that of xar_b_2x
