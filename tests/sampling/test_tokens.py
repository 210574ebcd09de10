"""Sampling of codes: filters, draws, guidance and its interval, randomness per image."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glotok_ray.config import FARConfig, TokenSamplerConfig, VocabularyConfig
from glotok_ray.nn.far import FAR
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.sampling.image_random import image_generator
from glotok_ray.sampling.tokens import (
    draw_codes,
    filter_logits,
    guide,
    guided_positions,
    keep_top_k,
    keep_top_p,
    sample_codes,
)

SIZES = (11, 7, 13)
POSITIONS = 9
PROBABILITIES = torch.tensor([[0.1, 0.4, 0.05, 0.25, 0.2]])
UNGUIDED = TokenSamplerConfig(guidance_scale=1.0)


def build(count: int = 2) -> FAR:
    torch.manual_seed(count)
    codebooks = tuple(
        VocabularyConfig(name=f"book{index}", size=SIZES[index]) for index in range(count)
    )
    config = FARConfig(
        grid_size=3,
        codebooks=codebooks,
        width=32,
        depth=2,
        head_depth=2 if count > 1 else 0,
        num_heads=2,
        mlp_multiple=16,
        num_classes=5,
    )
    model = FAR(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


def sample(model: FAR, config: TokenSamplerConfig = UNGUIDED, **changes: Any) -> Tensor:
    arguments = {"image_ids": [0, 1, 2, 3], "seed": 7} | changes
    labels = torch.tensor([image_id % 5 for image_id in arguments["image_ids"]])
    return sample_codes(model, labels, config, **arguments)


def reference(model: FAR, config: TokenSamplerConfig, image_ids: list[int], seed: int) -> Tensor:
    """The same draws by full forward passes of both halves at every step, without a cache."""
    labels = torch.tensor([image_id % 5 for image_id in image_ids])
    null = torch.full_like(labels, 5)
    count = len(model.config.codebooks)
    codes = torch.zeros(len(image_ids), count, POSITIONS, dtype=torch.int64)
    generators = [image_generator(seed, image_id) for image_id in image_ids]
    low, high = config.guidance_interval
    for position in range(POSITIONS):
        scale = config.guidance_scale if low <= position / POSITIONS < high else 1.0
        for index in range(count):
            with torch.no_grad():
                given, free = (model(codes, each)[index][:, position] for each in (labels, null))
            logits = (1 - scale) * free + scale * given
            cumulative = (logits / config.temperature).softmax(dim=-1).double().cumsum(dim=-1)
            for row, generator in enumerate(generators):
                uniform = torch.rand((), generator=generator, dtype=torch.float64)
                codes[row, index, position] = int((cumulative[row] <= uniform).sum())
    return codes


def test_temperature_divides_logits() -> None:
    logits = torch.randn(3, 6)
    found = filter_logits(logits, TokenSamplerConfig(temperature=0.5)).softmax(dim=-1)
    squared = logits.softmax(dim=-1) ** 2
    assert torch.allclose(found, squared / squared.sum(dim=-1, keepdim=True), atol=1e-6)


def test_top_k_keeps_the_k_most_likely_codes() -> None:
    kept = keep_top_k(PROBABILITIES.log(), 2).softmax(dim=-1)
    assert kept.squeeze(0).tolist() == pytest.approx([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0])
    assert torch.equal(keep_top_k(PROBABILITIES.log(), 9), PROBABILITIES.log())


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.01, [1]), (0.39, [1]), (0.5, [1, 3]), (0.84, [1, 3, 4]), (0.9, [0, 1, 3, 4])],
)
def test_top_p_keeps_the_fewest_codes_that_reach_it(top_p: float, kept: list[int]) -> None:
    found = keep_top_p(PROBABILITIES.log(), top_p)
    assert found.isfinite().squeeze(0).nonzero().flatten().tolist() == kept
    assert torch.equal(found[:, kept], PROBABILITIES.log()[:, kept])


def test_filters_act_on_each_row_by_itself() -> None:
    logits = torch.stack([PROBABILITIES.log().squeeze(0), PROBABILITIES.log().squeeze(0).flip(0)])
    found = keep_top_p(logits, 0.5)
    assert torch.equal(found[1], found[0].flip(0))
    found = keep_top_k(logits, 3)
    assert torch.equal(found[1], found[0].flip(0))


def test_filters_act_in_the_order_temperature_top_k_top_p() -> None:
    # Among the top two codes the first one has 0.4 / 0.65 = 0.62, so it alone reaches 0.6; of all codes it has 0.4.
    both = filter_logits(PROBABILITIES.log(), TokenSamplerConfig(top_k=2, top_p=0.6))
    assert both.isfinite().squeeze(0).nonzero().flatten().tolist() == [1]
    # At temperature 2 probabilities go as square roots: 0.56 of the top two, so both are needed.
    config = TokenSamplerConfig(top_k=2, top_p=0.6, temperature=2.0)
    both = filter_logits(PROBABILITIES.log(), config)
    assert both.isfinite().squeeze(0).nonzero().flatten().tolist() == [1, 3]


def test_a_draw_inverts_the_cumulative_probability() -> None:
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25]).log().expand(6, 4)
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53], dtype=torch.float64)
    assert draw_codes(logits, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_code_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 2.0, -math.inf]]).expand(2, 5)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw_codes(logits, ends).tolist() == [1, 3]


def test_draws_have_the_frequencies_of_the_probabilities() -> None:
    count = 40000
    uniforms = torch.rand(count, generator=image_generator(0, 0), dtype=torch.float64)
    drawn = draw_codes(PROBABILITIES.log().expand(count, 5), uniforms)
    found = drawn.bincount(minlength=5) / count
    deviation = (PROBABILITIES * (1 - PROBABILITIES) / count).sqrt().squeeze(0)
    assert ((found - PROBABILITIES.squeeze(0)).abs() < 4 * deviation).all()


def test_first_codes_of_many_images_have_the_models_probabilities() -> None:
    model, count = build(2), 4000
    with torch.no_grad():
        first = model(torch.zeros(1, 2, 1, dtype=torch.int64), torch.tensor([3]))[0][0, 0]
    codes = sample_codes(model, torch.full((count,), 3), UNGUIDED, image_ids=range(count), seed=1)
    found = codes[:, 0, 0].bincount(minlength=SIZES[0]) / count
    expected = first.softmax(dim=-1)
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() < 4.5 * deviation + 1e-4).all()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.7), (0.5, 1.0), (0.0, 0.4), (0.3, 0.3)])
def test_samples_equal_those_of_full_forward_passes(
    count: int, scale: float, interval: tuple[float, float]
) -> None:
    config = TokenSamplerConfig(guidance_scale=scale, guidance_interval=interval, temperature=1.3)
    model = build(count)
    found = sample(model, config)
    assert found.shape == (4, count, POSITIONS)
    assert torch.equal(found, reference(model, config, [0, 1, 2, 3], 7))


def test_guidance_leans_away_from_the_unconditional_logits() -> None:
    conditional, unconditional = torch.randn(2, 3, 5).unbind(0)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    lean = guide(conditional, unconditional, 3.0) - conditional
    assert torch.allclose(lean, 2 * (conditional - unconditional), atol=1e-5)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.0, 1.0), range(0, 100)),
        ((0.0, 0.5), range(0, 50)),
        ((0.07, 0.555), range(7, 56)),
        ((0.4, 0.4), range(40, 40)),
    ],
)
def test_guided_positions_are_a_share_of_all(
    interval: tuple[float, float], expected: range
) -> None:
    config = TokenSamplerConfig(guidance_scale=2.0, guidance_interval=interval)
    found = guided_positions(config, 100)
    assert (found.start, found.stop) == (expected.start, expected.stop)


def test_guidance_matters_from_its_first_position_on() -> None:
    config = TokenSamplerConfig(guidance_scale=8.0, guidance_interval=(0.5, 1.0))
    ids = list(range(16))
    plain = sample(build(), UNGUIDED, image_ids=ids)
    guided = sample(build(), config, image_ids=ids)
    assert torch.equal(plain[..., :5], guided[..., :5])
    assert not torch.equal(plain[..., 5], guided[..., 5])


@pytest.mark.parametrize(
    "config",
    [UNGUIDED, TokenSamplerConfig(guidance_scale=2.0, guidance_interval=(0.5, 0.5))],
)
def test_without_guidance_the_null_label_is_never_read(config: TokenSamplerConfig) -> None:
    model = build()
    expected = sample(model, UNGUIDED)
    with torch.no_grad():
        model.class_embedding.weight[model.null_label] = math.nan
    assert torch.equal(sample(model, config), expected)


def test_the_unconditional_half_ends_with_the_interval() -> None:
    model = build()
    rows = []
    model.blocks[0].register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[0]))
    head_rows = []
    model.head_blocks[0].register_forward_hook(
        lambda _, inputs, __: head_rows.append(inputs[0].shape[0])
    )
    sample(model, TokenSamplerConfig(guidance_scale=2.0, guidance_interval=(1 / 3, 2 / 3)))
    assert rows == [8] * 6 + [4] * 3
    assert head_rows == [4] * 6 + [8] * 6 + [4] * 6


def test_an_image_does_not_depend_on_its_batch() -> None:
    config, model = TokenSamplerConfig(guidance_scale=2.0), build()
    together = sample(model, config, image_ids=[4, 9, 2])
    for row, image_id in enumerate([4, 9, 2]):
        assert torch.equal(sample(model, config, image_ids=[image_id]), together[row : row + 1])
    assert not torch.equal(sample(model, config, image_ids=[4, 9, 2], seed=8), together)
    assert not torch.equal(together[0], together[1])


def test_top_k_of_one_takes_the_most_likely_code_whatever_the_seed() -> None:
    model, config = build(), TokenSamplerConfig(guidance_scale=2.0, top_k=1)
    codes = sample(model, config, seed=1)
    assert torch.equal(codes, sample(model, config, seed=2))
    labels = torch.arange(4)
    with torch.no_grad():
        pairs = zip(model(codes, labels), model(codes, torch.full_like(labels, 5)), strict=True)
    best = [guide(given, free, 2.0).argmax(dim=-1) for given, free in pairs]
    assert torch.equal(codes, torch.stack(best, dim=1))


def test_bf16_weights_sample_codes_in_range() -> None:
    model = build().bfloat16()
    codes = sample(model, TokenSamplerConfig(guidance_scale=2.0, top_p=0.9))
    assert codes.dtype == torch.int64
    assert all(0 <= codes[:, i].min() <= codes[:, i].max() < SIZES[i] for i in range(2))


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        sample(build().train())
    with pytest.raises(ValueError, match="image_ids: 1 ids for 2 labels"):
        sample_codes(build(), torch.tensor([0, 1]), UNGUIDED, image_ids=[3], seed=0)


def test_logits_that_are_no_distribution_have_no_code() -> None:
    logits = PROBABILITIES.log().repeat(5, 1)
    logits[1, 3] = math.nan
    logits[2, 0] = math.inf
    logits[3] = -math.inf
    drawn = draw_codes(logits, torch.full((5,), 0.9999, dtype=torch.float64))
    assert drawn.tolist() == [4, NO_CODE, NO_CODE, NO_CODE, 4]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_diverged_model_draws_no_codes_and_the_other_images_stay(
    guidance: float, top_k: int
) -> None:
    model = build()
    config = TokenSamplerConfig(guidance_scale=guidance, top_k=top_k)
    expected = sample(model, config)
    with torch.no_grad():
        # Of the image with label 2 alone.
        model.class_embedding.weight[2] = math.nan
    found = sample(model, config)
    assert (found[2] == NO_CODE).all()
    others = [0, 1, 3]
    assert torch.equal(found[others], expected[others])


def test_labels_ids_and_seeds_are_whole_numbers() -> None:
    model = build()
    for labels, changes, text in (
        (torch.tensor([1.7]), {}, r"labels: torch\.float32"),
        (torch.tensor([True]), {}, r"labels: torch\.bool"),
        (torch.tensor([[1]]), {}, r"of shape \(1, 1\)"),
        (torch.tensor([1]), {"seed": 1.0}, r"seed = 1\.0: must be a whole number"),
        (torch.tensor([1]), {"seed": True}, "seed = True"),
        (torch.tensor([1]), {"image_ids": [0.5]}, r"image_ids\[0\] = 0\.5"),
        (torch.tensor([1]), {"image_ids": [-1]}, r"image_ids\[0\] = -1: must be in"),
        (torch.tensor([1]), {"image_ids": [2**32]}, "must be in"),
    ):
        with pytest.raises(ValueError, match=text):
            sample_codes(model, labels, UNGUIDED, **{"image_ids": [0], "seed": 0, **changes})
