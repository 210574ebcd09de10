"""Entities: their order, their places on the grid, and the way back."""

import pytest
import torch
from torch import nn

from glotok_ray.config import FlowConfig, XARConfig
from glotok_ray.nn.entities import code_entities, from_entities, to_entities, token_places
from glotok_ray.nn.tokenizer import GloTokTokenizer
from tests.small_models import tiny_tokenizer

ENTITIES = [
    {"entity": "token"},
    {"entity": "cell", "cell_size": 1},
    {"entity": "cell", "cell_size": 2},
    {"entity": "cell", "cell_size": 4},
    {"entity": "subsample", "cell_size": 2},
    {"entity": "scale"},
    {"entity": "scale", "scale_sides": (1, 3, 4)},
    {"entity": "image"},
]


def make(**changes: object) -> XARConfig:
    return XARConfig(**{"grid_size": 4, "width": 32, "num_heads": 2, **changes})


def places(config: XARConfig) -> list[list[int]]:
    """Raster positions of every entity's tokens."""
    grid = torch.arange(16.0).reshape(1, 1, 4, 4)
    tokens = to_entities(grid, config)[0, :, 0].int()
    return [part.tolist() for part in tokens.split(list(config.entity_lengths))]


def test_cells_are_raster_over_cells_and_raster_inside() -> None:
    expected = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert places(make(cell_size=2)) == expected


def test_a_subsample_takes_every_second_position_and_the_fine_index_tells_which() -> None:
    expected = [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]
    assert places(make(entity="subsample", cell_size=2)) == expected


def test_tokens_and_the_whole_image_are_cells_of_side_one_and_of_the_grid() -> None:
    assert places(make(entity="token")) == places(make(cell_size=1)) == [[n] for n in range(16)]
    assert places(make(entity="image")) == places(make(cell_size=4)) == [list(range(16))]


def test_scales_average_the_grid_and_end_with_the_grid_itself() -> None:
    config = make(entity="scale")
    assert config.entity_lengths == (1, 4, 16)
    grid = torch.randn(2, 3, 4, 4)
    first, second, last = to_entities(grid, config).split(list(config.entity_lengths), dim=1)
    assert torch.allclose(first[:, 0], grid.mean(dim=(2, 3)))
    assert torch.allclose(second[:, 1], grid[:, :, :2, 2:].mean(dim=(2, 3)))
    assert torch.equal(last.transpose(1, 2).reshape(2, 3, 4, 4), grid)
    assert XARConfig(entity="scale").num_tokens == 341


@pytest.mark.parametrize("changes", ENTITIES)
def test_the_grid_comes_back_exactly(changes: dict[str, object]) -> None:
    config = make(**changes)
    grid = torch.randn(2, 5, 4, 4)
    tokens = to_entities(grid, config)
    assert tokens.shape == (2, config.num_tokens, 5)
    assert torch.equal(from_entities(tokens, config), grid)


def test_places_are_rows_and_columns_of_the_full_grid() -> None:
    cells = token_places(make(cell_size=2), torch.device("cpu"))
    assert cells[:5].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
    scales = token_places(make(entity="scale"), torch.device("cpu"))
    assert scales[:5].tolist() == [[1.5, 1.5], [0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
    assert scales[5:].tolist() == [[row, column] for row in range(4) for column in range(4)]


def test_sides_and_cells_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.cell_size = 3: must divide grid_size = 16"):
        XARConfig(cell_size=3)
    with pytest.raises(ValueError, match=r"model\.scale_sides .* must rise from at least 1"):
        XARConfig(entity="scale", scale_sides=(1, 8))
    assert XARConfig(entity="token", cell_size=3).num_entities == 256  # which does not read it


@pytest.mark.parametrize("latent_space", ["codes", "codes_plus_residual"])
def test_codes_become_scaled_entities(latent_space: str) -> None:
    tokenizer = GloTokTokenizer(tiny_tokenizer()).eval()
    for branch in tokenizer.branches.values():
        nn.init.normal_(branch.residual.contract.bias)  # at zero it would predict nothing
    config, flow = (
        XARConfig(grid_size=4, cell_size=2, channels=8),
        FlowConfig(latent_space=latent_space),
    )
    codes, scale = torch.randint(16, (3, 2, 4, 4)), torch.rand(8)
    found = code_entities(codes, tokenizer, scale, config, flow)
    latents = tokenizer.latents(codes, refine=latent_space == "codes_plus_residual")
    torch.testing.assert_close(from_entities(found, config), latents * scale[:, None, None])
    other = tokenizer.latents(codes, refine=latent_space == "codes")
    assert not torch.allclose(latents, other)
    assert not found.requires_grad
