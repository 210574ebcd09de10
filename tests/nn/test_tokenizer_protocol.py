"""The protocol that all tokenizers satisfy: ours does, and codes of any form fall into their grids."""

import pytest
import torch

from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.tokenizer_protocol import Grid, Rate, Tokenizer, grids_of
from tests.small_models import tiny_tokenizer


def test_our_tokenizer_satisfies_the_protocol_and_states_its_rate() -> None:
    config = tiny_tokenizer()
    model = GloTokTokenizer(config).eval()
    assert isinstance(model, Tokenizer)
    side = config.autoencoder.grid_size
    images = torch.zeros(2, 3, model.image_size, model.image_size)
    grids = grids_of(model.encode(images), model.rate)
    assert [grid.shape for grid in model.rate.grids] == [(side, side)] * len(grids)
    assert [part.shape for part in grids] == [(2, side, side)] * len(grids)
    assert [grid.num_codes for grid in model.rate.grids] == list(config.code_counts.values())
    assert model.image_size % model.side_multiple == 0


def test_the_rate_counts_indices_and_bits() -> None:
    rate = Rate((Grid((8, 8, 4), 16384), Grid((2,), 4)))
    assert rate.num_indices == 258
    assert rate.bits == 256 * 14 + 2 * 2


def test_codes_of_any_form_fall_into_their_grids() -> None:
    one, two = Rate((Grid((2, 2), 8),)), Rate((Grid((2, 2), 8),) * 2)
    assert [part.shape for part in grids_of(torch.zeros(3, 2, 2), one)] == [(3, 2, 2)]
    assert [part.shape for part in grids_of(torch.zeros(3, 1, 2, 2), one)] == [(3, 2, 2)]
    assert len(grids_of(torch.zeros(3, 2, 2, 2), two)) == 2
    assert len(grids_of((torch.zeros(3, 2, 2),) * 2, two)) == 2
    with pytest.raises(ValueError, match="2 grids of"):
        grids_of(torch.zeros(3, 2, 2), two)
