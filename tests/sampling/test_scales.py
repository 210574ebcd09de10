"""Sampling of VAR: the ramp of its guidance, its filters against the published rule, images apart from their batch."""

import math

import pytest
import torch
from torch import Tensor

from glotok_ray.config.samplers import ScaleSamplerConfig
from glotok_ray.config.var import VARConfig
from glotok_ray.nn.next_scale import next_scale_inputs
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.nn.var import VAR
from glotok_ray.peers.multi_scale import MultiScaleQuantizer
from glotok_ray.sampling.image_random import image_generator
from glotok_ray.sampling.scales import guided_hidden, ramped_guidance, sample_scales
from glotok_ray.sampling.tokens import draw_codes, filter_logits
from tests.small_pyramid import TINY_BRANCHES, TINY_VAR, SmallPyramid

LABELS = torch.tensor([0, 1, 2, 3])
every_model = pytest.mark.parametrize("size", [TINY_VAR, TINY_BRANCHES], ids=["one", "branches"])


def build(size: VARConfig = TINY_VAR) -> VAR:
    torch.manual_seed(1)
    model = VAR(size).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    # Many codes are likely, so that draws differ.
    model.output.weight.detach().mul_(0.1)
    return model


def reference(model: VAR, config: ScaleSamplerConfig, seed: int) -> list[Tensor]:
    """The same draws by full forward passes of both halves for every scale, without a cache."""
    size, lengths = model.config, model.config.scale_lengths
    pyramid, codes = SmallPyramid(size), []
    numbers = (sum(lengths), size.num_branches)
    uniforms = torch.stack(
        [
            torch.rand(numbers, generator=image_generator(seed, i), dtype=torch.float64)
            for i in range(4)
        ]
    )
    null = torch.full_like(LABELS, 4)
    branches = (size.num_branches,) if size.num_branches > 1 else ()
    for scale, length in enumerate(lengths):
        rest = [torch.zeros(4, *branches, each, dtype=torch.int64) for each in lengths[scale:]]
        inputs = next_scale_inputs([*codes, *rest], size.scale_sides, pyramid)
        start = sum(lengths[:scale])
        place = slice(start, start + length)
        with torch.no_grad():
            conditional, plain = (
                model(inputs[:, : start + length - 1], each)[:, place] for each in (LABELS, null)
            )
        t = config.guidance_scale * scale / (len(lengths) - 1)
        logits = (1 + t) * conditional - t * plain
        # A row of 24 logits for every image, position and branch.
        filtered = filter_logits(logits.reshape(-1, 24), config)
        drawn = draw_codes(filtered, uniforms[:, place].flatten()).view(4, length, -1)
        codes.append(drawn.transpose(1, 2).reshape(4, *branches, length))
    return codes


@pytest.mark.parametrize(
    "config",
    [
        ScaleSamplerConfig(guidance_scale=1.5, top_k=9, top_p=0.9),
        ScaleSamplerConfig(guidance_scale=0.0, top_k=0, top_p=1.0, temperature=0.8),
    ],
    ids=["published", "unguided"],
)
@every_model
def test_codes_are_those_of_full_passes_without_a_cache(
    size: VARConfig, config: ScaleSamplerConfig
) -> None:
    model, pyramid = build(size), SmallPyramid(size)
    found = sample_scales(model, LABELS, config, pyramid, image_ids=range(4), seed=7)
    expected = reference(model, config, 7)
    assert all(torch.equal(a, b) for a, b in zip(found.codes, expected, strict=True))
    total = sum(
        pyramid(codes.unflatten(-1, (side, side)), scale)
        for scale, (codes, side) in enumerate(zip(expected, size.scale_sides, strict=True))
    )
    torch.testing.assert_close(found.latents, total)


def test_guidance_grows_over_the_scales_and_leaves_the_first_alone() -> None:
    assert [ramped_guidance(1.5, scale, 10) for scale in (0, 3, 9)] == pytest.approx([0, 0.5, 1.5])
    model = build()
    drawn = [
        sample_scales(
            model,
            LABELS,
            ScaleSamplerConfig(guidance_scale=guidance),
            SmallPyramid(),
            image_ids=range(4),
            seed=0,
        ).codes
        for guidance in (0.0, 8.0)
    ]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][3], drawn[1][3])


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.5])
@torch.no_grad()
def test_guidance_before_the_output_layer_is_that_of_the_logits(strength: float) -> None:
    """Its bias included; what comes before it is not linear in the condition and is done for both halves."""
    model = build().double()
    assert model.output.bias.abs().min() > 1e-3
    labels = torch.cat([LABELS, torch.full_like(LABELS, model.null_label)])
    hidden = model.scale_hidden(None, 0, model.new_cache(labels))
    conditional, plain = model.scale_logits(None, 0, model.new_cache(labels)).chunk(2)
    expected = (1 + strength) * conditional - strength * plain
    torch.testing.assert_close(model.logits_of(guided_hidden(hidden, strength)), expected)


def test_codes_that_tie_are_kept_or_dropped_together() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0, 1.0, 1.0, -1.0]])
    chosen = filter_logits(logits, ScaleSamplerConfig(top_k=3, top_p=0.99))
    assert chosen.isfinite().tolist() == [[True, False, True, True, True, False]]
    # Of the four, the first has e / (e + 3) = 0.475.
    alone = filter_logits(logits, ScaleSamplerConfig(top_k=3, top_p=0.47))
    assert alone.isfinite().tolist() == [[True, False, False, False, False, False]]
    more = filter_logits(logits, ScaleSamplerConfig(top_k=3, top_p=0.48))
    assert torch.equal(more, chosen)


@every_model
def test_without_guidance_the_null_label_is_never_read(size: VARConfig) -> None:
    model, config = build(size), ScaleSamplerConfig(guidance_scale=0.0)
    with torch.no_grad():
        model.class_embedding.weight[model.null_label] = math.nan
    found = sample_scales(model, LABELS, config, SmallPyramid(size), image_ids=range(4), seed=0)
    assert all(int(codes.min()) >= 0 for codes in found.codes)


@every_model
def test_an_image_does_not_depend_on_its_batch_but_on_its_seed(size: VARConfig) -> None:
    model, config, pyramid = build(size), ScaleSamplerConfig(), SmallPyramid(size)
    whole = sample_scales(model, LABELS, config, pyramid, image_ids=[5, 6, 7, 8], seed=1)
    alone = sample_scales(model, LABELS[2:3], config, pyramid, image_ids=[7], seed=1)
    other = sample_scales(model, LABELS[2:3], config, pyramid, image_ids=[7], seed=2)
    assert all(torch.equal(a[2:3], b) for a, b in zip(whole.codes, alone.codes, strict=True))
    assert not torch.equal(alone.codes[3], other.codes[3])


@every_model
def test_an_image_whose_logits_are_not_finite_has_no_codes(size: VARConfig) -> None:
    model = build(size)
    with torch.no_grad():
        model.class_embedding.weight[2] = math.nan
    config = ScaleSamplerConfig()
    found = sample_scales(model, LABELS, config, SmallPyramid(size), image_ids=range(4), seed=0)
    for codes in found.codes:
        assert (codes[2] == NO_CODE).all()
        assert (codes[[0, 1, 3]] != NO_CODE).all()


def test_filters_leave_each_branch_its_own_codes() -> None:
    """One branch a hundred times surer than the other, which one filter over both would silence."""
    model = build(TINY_BRANCHES)
    with torch.no_grad():
        model.output.weight[:24].mul_(100)
    pyramid, labels = SmallPyramid(TINY_BRANCHES), LABELS.repeat(20)
    config = ScaleSamplerConfig(guidance_scale=0.0, top_k=2, top_p=1.0)
    found = sample_scales(model, labels, config, pyramid, image_ids=range(80), seed=0).codes[0]
    # Images of one label have the same logits at the first scale.
    for label in range(4):
        first, second = (found[labels == label, branch].unique() for branch in range(2))
        assert len(first) <= 2
        assert len(second) == 2


def published_filter(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """VAR's rule: the k-th value as threshold, then the ascending cumulative probability up to 1 - p goes."""
    logits = logits.clone()
    logits[logits < logits.topk(top_k, dim=-1).values[..., -1:]] = -math.inf
    ordered, order = logits.sort(dim=-1)
    gone = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    gone[..., -1] = False
    logits[gone.scatter(-1, order, gone)] = -math.inf
    return logits


def test_filters_keep_what_the_published_rule_keeps() -> None:
    logits = 3 * torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    config = ScaleSamplerConfig(top_k=20, top_p=0.8)
    assert torch.equal(filter_logits(logits, config), published_filter(logits, 20, 0.8))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"guidance_scale = -1: must be at least 0"):
        ScaleSamplerConfig(guidance_scale=-1)
    with pytest.raises(ValueError, match="in training mode"):
        sample_scales(
            build().train(),
            LABELS,
            ScaleSamplerConfig(),
            SmallPyramid(),
            image_ids=range(4),
            seed=0,
        )


def test_what_is_drawn_adds_up_to_what_vars_tokenizer_decodes() -> None:
    torch.manual_seed(2)
    quantizer = MultiScaleQuantizer((24, 6), "euclidean", TINY_VAR.scale_sides, (0, 0, 1, 1))
    config = ScaleSamplerConfig()
    found = sample_scales(
        build(), LABELS, config, quantizer.contribution, image_ids=range(4), seed=0
    )
    grids = zip(found.codes, TINY_VAR.scale_sides, strict=True)
    scales = tuple(codes.unflatten(1, (side, side)) for codes, side in grids)
    torch.testing.assert_close(found.latents, quantizer.decode(scales))
