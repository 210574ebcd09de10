"""The codebook of a pyramid over a tokenizer's latents: what its scales stand for, and what is refused."""

import dataclasses

import pytest
import torch
from torch import Tensor

from glotok_ray.config.scales import GloTokScalesConfig, ScalesRun
from glotok_ray.config.teacher import KMeansConfig
from glotok_ray.nn.next_scale import ScaleTokenizer
from glotok_ray.peers.glotok_scales import GloTokScales
from glotok_ray.teacher.scale_codebook import fit_codebook
from tests.small_models import tiny_tokenizer

RUN = ScalesRun(
    num_codes=32,
    sides=(1, 2, 4),
    vectors_per_scale=512,
    rounds=3,
    kmeans=KMeansConfig(iterations=8),
)


def build() -> GloTokScales:
    torch.manual_seed(0)
    config = GloTokScalesConfig(tokenizer=tiny_tokenizer(), num_codes=32, sides=(1, 2, 4))
    return GloTokScales(config).requires_grad_(False).eval()


def latents(count: int = 64) -> Tensor:
    """Smooth maps and something fine on them."""
    draw = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 8, 1, 1, generator=draw)
    middle = 0.5 * torch.randn(count, 8, 2, 2, generator=draw).repeat_interleave(2, 2)
    fine = 0.3 * torch.randn(count, 8, 4, 4, generator=draw)
    return coarse + middle.repeat_interleave(2, 3) + fine


def test_each_scale_stands_for_more_and_rounds_do_not_harm() -> None:
    model = build()
    assert isinstance(model, ScaleTokenizer)
    shares = fit_codebook(model, latents(), RUN).shares
    assert len(shares) == 3
    assert 0.2 < shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.6
    once = fit_codebook(build(), latents(), dataclasses.replace(RUN, rounds=1)).shares
    assert shares[2] > once[2] - 0.02


def test_the_same_seed_gives_the_same_codes() -> None:
    first, second, other = build(), build(), build()
    fit_codebook(first, latents(), RUN)
    fit_codebook(second, latents(), RUN)
    fit_codebook(other, latents(), dataclasses.replace(RUN, seed=1))
    assert torch.equal(first.codebook, second.codebook)
    assert not torch.equal(first.codebook, other.codebook)


def test_what_is_decoded_is_the_sum_of_all_scales() -> None:
    model = build()
    fit_codebook(model, latents(), RUN)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    codes = model.encode(images)
    assert [tuple(grid.shape) for grid in codes] == [(2, 1, 1), (2, 2, 2), (2, 4, 4)]
    summed = sum(model.contribution(grid, scale) for scale, grid in enumerate(codes))
    torch.testing.assert_close(model.decode(codes), model.decode_latents(summed))  # type: ignore[arg-type]
    alone = model.parts_alone(codes)
    assert list(alone) == ["scale_1x1", "scale_2x2", "scale_4x4"]


def test_too_many_codes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_codes = 32: only 21 vectors .*; lower it"):
        fit_codebook(build(), latents(1), RUN)


@pytest.mark.parametrize("sides", [(2, 4), (1, 2), (1, 4, 2), (4,)])
def test_sides_must_rise_from_one_to_the_grid(sides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"scales\.sides"):
        GloTokScalesConfig(tokenizer=tiny_tokenizer(), sides=sides)
