"""Every row of the paper's Table 2 has recipes that state what is published of it."""

import pytest

from glotok_ray.config import FARConfig
from glotok_ray.nn.next_scale import ScaleTokenizer
from glotok_ray.peers.systems import released
from glotok_ray.pretrained.generator import check_fit
from glotok_ray.pretrained.peer_tokenizers import built
from glotok_ray.recipes import (
    encode_images,
    evaluate_images,
    sample_images,
    table_2,
    train_generator,
)
from glotok_ray.report.generator_table import published_table_2

PAPER = published_table_2()


def test_every_row_has_a_recipe() -> None:
    assert sorted(table_2.ROWS) == list(PAPER)
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


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [
        ("ibq_b", "ibq_16384"),
        ("ibq_xxl", "ibq_16384"),
        ("vqgan_lc_gpt", "vqgan_lc_100k"),
        ("var_d16", "var_256"),
        ("var_d30", "var_256"),
        ("imagefolder_var_d17", "imagefolder_4096"),
    ],
)
def test_its_codes_are_those_of_its_own_tokenizer(name: str, tokenizer: str) -> None:
    run = train_generator.RECIPES[name]()
    assert run.tokenizer_path == f"runs/{tokenizer}_imported"
    written = {recipe().output_path: recipe() for recipe in encode_images.RECIPES.values()}
    codes = written[run.data.train_path]
    assert (codes.tokenizer_path, codes.views) == (run.tokenizer_path, run.data.views)
    system, file = released(tokenizer)
    model = built(system, file.config)
    check_fit(run.model, model.rate)
    if isinstance(run.model, FARConfig):
        assert run.model.names == model.grid_names
    else:
        assert isinstance(model, ScaleTokenizer)
        assert model.code_width == run.model.code_width


def test_an_unknown_model_has_neither() -> None:
    model = train_generator.quickstart_var().model
    assert table_2.recipe_of("mine", model) == "quickstart_var"
    assert table_2.row_of("quickstart_var") is None
    assert table_2.recipe_of("mine", train_generator.xar_b().model) == ""  # also that of xar_b_2x
