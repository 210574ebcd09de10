"""The latent scale: closed forms, usage weights, order of branches."""

import pytest
import torch
import torch.nn.functional as F

from glotok_ray.config import CodebookConfig, TokenizerConfig
from glotok_ray.sampling.latents import latent_scale, latent_scale_from_counts


def test_balanced_unit_codes_need_the_root_of_their_width() -> None:
    codes = torch.cat([torch.eye(8), -torch.eye(8)])
    assert latent_scale_from_counts(codes, torch.ones(16)) == pytest.approx(8**0.5)
    # Euclidean look-up keeps lengths, and they are the latents'.
    assert latent_scale_from_counts(3 * codes, torch.ones(16)) == pytest.approx(8**0.5 / 3)


def test_scaled_latents_have_unit_deviation_under_the_usage() -> None:
    draw = torch.Generator().manual_seed(0)
    codes = F.normalize(torch.randn(32, 4, generator=draw) + 0.5, dim=1)
    counts = torch.randint(0, 50, (32,), generator=draw)
    latents = codes.repeat_interleave(counts, dim=0)
    scaled = latents * latent_scale_from_counts(codes, counts)
    assert scaled.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert scaled.mean().abs() > 0.1  # the mean stays in
    assert latent_scale_from_counts(codes, torch.ones(32)) != latent_scale_from_counts(
        codes, counts
    )


def test_codes_without_use_do_not_count() -> None:
    codes = torch.cat([torch.eye(4), -torch.eye(4), torch.full((1, 4), 9.0)])
    counts = torch.tensor([1] * 8 + [0])
    assert latent_scale_from_counts(codes, counts) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("codes", "counts", "message"),
    [
        (torch.eye(3), torch.ones(2), "one per code"),
        (torch.eye(3), torch.zeros(3), "at least one positive"),
        (torch.eye(3), torch.tensor([1, -1, 1]), "no negative"),
        (torch.ones(2, 4), torch.ones(2), "variance of 0"),
        (torch.tensor([[1.0, torch.nan], [0, 1]]), torch.ones(2), "variance of nan"),
    ],
)
def test_unusable_input_is_refused(codes: torch.Tensor, counts: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latent_scale_from_counts(codes, counts)


def test_the_visual_half_comes_first() -> None:
    books = (CodebookConfig(name="visual", width=3), CodebookConfig(name="semantic", width=2))
    config = TokenizerConfig(codebooks=books)
    assert latent_scale([2.0, 5.0], config).tolist() == [2.0, 2.0, 2.0, 5.0, 5.0]
