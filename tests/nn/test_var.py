"""VAR and ImageFolder's generator: published sizes, a literal forward pass, what sees what, one scale at a time, masked
inputs, stochastic depth, start.
"""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glotok_ray.config.var import VARConfig
from glotok_ray.nn.next_scale import codes_by_scale, next_scale_inputs
from glotok_ray.nn.var import VAR
from glotok_ray.nn.var_blocks import VARBlock
from glotok_ray.recipes.var_generators import RECIPES
from tests.small_pyramid import TINY_BRANCHES, TINY_VAR, SmallPyramid

LENGTHS = TINY_VAR.scale_lengths
SHARED = dataclasses.replace(TINY_VAR, modulation="shared")
VARIANTS = {"block": TINY_VAR, "shared": SHARED, "branches": TINY_BRANCHES}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def build(config: VARConfig = TINY_VAR) -> VAR:
    """Weights large enough that attention is far from uniform."""
    torch.manual_seed(1)
    model = VAR(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def block_of(model: VAR, index: int) -> VARBlock:
    block = model.blocks[index]
    assert isinstance(block, VARBlock)
    return block


def drawn_codes(config: VARConfig = TINY_VAR, batch: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(5)
    branches = (config.num_branches,) if config.num_branches > 1 else ()
    return [
        torch.randint(24, (batch, *branches, length), generator=draw)
        for length in config.scale_lengths
    ]


def inputs_of(codes: list[Tensor], config: VARConfig = TINY_VAR) -> Tensor:
    return next_scale_inputs(codes, config.scale_sides, SmallPyramid(config))


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (RECIPES["var_d16"]().model, 310_283_520),
        (RECIPES["var_d20"]().model, 600_917_136),
        (RECIPES["var_d24"]().model, 1_033_399_360),
        (RECIPES["var_d30"]().model, 2_010_020_356),
        (RECIPES["imagefolder_var_d17"]().model, 375_258_593),
        (
            VARConfig(
                width=2304,
                depth=36,
                num_heads=36,
                modulation="shared",
                scale_sides=(1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
            ),
            2_353_893_904,
        ),
    ],
    ids=[*RECIPES, "d36_512_pixels"],
)
def test_published_sizes(config: VARConfig, total: int) -> None:
    with torch.device("meta"):
        model = VAR(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    if config.num_branches == 2:
        # All that Table 2 counts of ImageFolder.
        assert sum(parameter.numel() for parameter in model.blocks.parameters()) == 362_484_897
        assert (config.num_tokens, config.num_indices) == (286, 572)


def literal_logits(
    model: VAR, inputs: Tensor, labels: Tensor, masked: Tensor | None = None
) -> Tensor:
    """What the facts say of the released code, with a float mask and a full softmax."""
    lengths = model.config.scale_lengths
    weights = dict(model.named_parameters())
    classes = weights["class_embedding.weight"][labels]

    def linear(name: str, values: Tensor) -> Tensor:
        return F.linear(values, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    levels = torch.cat([torch.full((length,), scale) for scale, length in enumerate(lengths)])
    start = (classes + weights["start"])[:, None]
    following = linear("input_projection", inputs)
    if masked is not None:
        following[masked] = weights["masked_input"]
    tokens = torch.cat([start, following], dim=1)
    tokens = tokens + weights["positions"] + weights["level_embedding.weight"][levels]
    mask = torch.where(levels[:, None] >= levels[None], 0.0, -math.inf)
    active = classes * classes.sigmoid()

    def normed(values: Tensor) -> Tensor:
        mean, variance = values.mean(-1, keepdim=True), values.var(-1, False, keepdim=True)
        return (values - mean) / (variance + 1e-6).sqrt()

    for block in (f"blocks.{index}" for index in range(3)):
        if model.config.modulation == "shared":
            parts = linear("shared_modulation", active).view(-1, 6, 32)
            parts = parts + weights[f"{block}.modulation_offset"]
        else:
            parts = linear(f"{block}.modulation", active).view(-1, 6, 32)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts[:, :, None].unbind(1)
        inner = normed(tokens) * (1 + scale1) + shift1
        query, key, value = linear(f"{block}.attention.query_key_value", inner).chunk(3, dim=-1)
        query = query + weights[f"{block}.attention.query_bias"]
        value = value + weights[f"{block}.attention.value_bias"]
        query, key, value = (part.unflatten(-1, (2, 16)) for part in (query, key, value))
        query, key = (part / part.norm(dim=-1, keepdim=True) for part in (query, key))
        strength = weights[f"{block}.attention.head_scale"].clamp(max=math.log(100)).exp()
        scores = torch.einsum("bqhw,bkhw->bhqk", query * strength[:, None], key) + mask
        mixed = torch.einsum("bhqk,bkhw->bqhw", scores.softmax(-1), value).flatten(2)
        tokens = tokens + gate1 * linear(f"{block}.attention.projection", mixed)
        inner = linear(f"{block}.mlp_first", normed(tokens) * (1 + scale2) + shift2)
        cubed = math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)
        tokens = tokens + gate2 * linear(f"{block}.mlp_second", 0.5 * inner * (1 + cubed.tanh()))
    scale, shift = linear("final_modulation", active)[:, None].chunk(2, dim=-1)
    return linear("output", normed(tokens) * (1 + scale) + shift)


@every_variant
def test_logits_equal_a_literal_implementation(config: VARConfig) -> None:
    codes, labels = drawn_codes(config), torch.tensor([0, 3, 4])
    model, inputs = build(config), inputs_of(codes, config)
    with torch.no_grad():
        block_of(model, 0).attention.head_scale[0] = 9.0  # above the bound
    expected = literal_logits(model, inputs, labels)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(inputs, labels), expected, atol=1e-4, rtol=1e-4)


def test_one_learned_vector_replaces_masked_inputs_which_keep_their_places() -> None:
    model, labels = build(TINY_BRANCHES), torch.tensor([0, 3, 4])
    inputs = inputs_of(drawn_codes(TINY_BRANCHES), TINY_BRANCHES)
    masked = torch.zeros(inputs.shape[:2], dtype=torch.bool)
    assert torch.equal(model(inputs, labels, masked), model(inputs, labels))
    masked[0, 0], masked[1, 5:9] = True, True
    found = model(inputs, labels, masked)
    expected = literal_logits(model, inputs, labels, masked)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(found[2], model(inputs, labels)[2])
    # What was there before is gone, and two masked inputs of one scale differ by their positions.
    other = inputs.clone()
    other[masked] += 1.0
    assert torch.equal(model(other, labels, masked), found)
    assert (found[1, 6] - found[1, 7]).abs().max() > 1e-3
    with pytest.raises(AttributeError, match="masked_input"):
        build()(inputs_of(drawn_codes()), labels, torch.ones(3, 38, dtype=torch.bool))


@every_variant
def test_one_scale_at_a_time_equals_teacher_forcing(config: VARConfig) -> None:
    inputs, labels = inputs_of(drawn_codes(config), config), torch.tensor([0, 3, 4])
    model, lengths = build(config), config.scale_lengths
    whole, cache = model(inputs, labels), model.new_cache(labels)
    for scale, expected in enumerate(whole.split(list(lengths), dim=1)):
        start = sum(lengths[:scale]) - 1
        given = None if scale == 0 else inputs[:, start : start + lengths[scale]]
        found = model.scale_logits(given, scale, cache)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "scale", "branch"),
    [(TINY_VAR, scale, 0) for scale in range(4)]
    + [(TINY_BRANCHES, scale, branch) for scale in range(6) for branch in range(2)],
)
def test_codes_of_a_scale_change_later_scales_alone(
    config: VARConfig, scale: int, branch: int
) -> None:
    """Both branches of them, and neither of its own scale."""
    model, labels = build(config), torch.tensor([0, 1, 2])
    codes = drawn_codes(config)
    changed = [each.clone() for each in codes]
    moved = changed[scale].view(3, config.num_branches, -1)[:, branch]
    moved.add_(1).remainder_(24)
    before, after = (
        model(inputs_of(each, config), labels).split(list(config.scale_lengths), 1)
        for each in (codes, changed)
    )
    for other, (first, second) in enumerate(zip(before, after, strict=True)):
        parts = zip(model.logits_by_branch(first), model.logits_by_branch(second), strict=True)
        for one, two in parts:
            if other <= scale:
                assert torch.equal(one, two)
            else:
                assert ((one - two).abs().amax(dim=(0, 2)) > 1e-4).all()


def test_positions_of_one_scale_see_each_other() -> None:
    model, inputs, labels = build(), inputs_of(drawn_codes()), torch.tensor([0, 1, 2])
    other = inputs.clone()
    other[:, 3] += 1.0  # the last position of the second scale
    moved = (model(inputs, labels) - model(other, labels)).abs().amax(dim=(0, 2))
    assert moved[0] == 0
    assert (moved[1:] > 1e-5).all()


def test_the_first_scales_alone_are_the_first_logits() -> None:
    model, inputs, labels = build(), inputs_of(drawn_codes()), torch.tensor([0, 1, 2])
    short = model(inputs[:, :4], labels)
    torch.testing.assert_close(short, model(inputs, labels)[:, :5], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"inputs: 6 tokens; must be those of whole scales"):
        model(inputs[:, :6], labels)


def test_inputs_are_the_running_map_at_the_next_scales_size() -> None:
    codes, pyramid = drawn_codes(), SmallPyramid()
    inputs = inputs_of(codes)
    assert inputs.shape == (3, sum(LENGTHS[1:]), 6)
    total = sum(
        pyramid(codes[scale].view(3, side, side), scale) for scale, side in enumerate((1, 2, 3))
    )
    assert isinstance(total, Tensor)
    torch.testing.assert_close(inputs[:, -25:], total.flatten(2).transpose(1, 2))
    first = pyramid(codes[0].view(3, 1, 1), 0)
    torch.testing.assert_close(
        inputs[:, :4].transpose(1, 2).view(3, 6, 2, 2), F.interpolate(first, (2, 2), mode="area")
    )


def test_each_branch_enters_its_own_channels() -> None:
    codes = drawn_codes(TINY_BRANCHES)
    inputs = inputs_of(codes, TINY_BRANCHES)
    changed = [torch.stack([each[:, 0], (each[:, 1] + 1) % 24], dim=1) for each in codes]
    moved = (inputs - inputs_of(changed, TINY_BRANCHES)).abs().amax(dim=(0, 1))
    assert (moved[:3] == 0).all()
    assert (moved[3:] > 0.1).all()


def test_grids_of_a_tokenizer_become_codes_by_scale() -> None:
    grids = [torch.full((2, 3), place) for place in range(6)]
    found = codes_by_scale(grids, 2)
    assert [each[0, :, 0].tolist() for each in found] == [[0, 3], [1, 4], [2, 5]]
    assert found[0].shape == (2, 2, 3)
    assert all(one is two for one, two in zip(codes_by_scale(grids, 1), grids, strict=True))


@every_variant
def test_every_parameter_receives_a_gradient(config: VARConfig) -> None:
    model, codes = build(config), drawn_codes(config)
    inputs = inputs_of(codes, config)
    masked = torch.arange(inputs.shape[1]).remainder(3).eq(1).expand(3, -1)
    given = (masked,) if config.input_masking else ()
    logits = model(inputs, torch.tensor([0, 1, 4]), *given)
    targets = torch.cat(codes, dim=-1).view(3, config.num_branches, -1).transpose(1, 2)
    F.cross_entropy(logits.view(-1, 24), targets.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_new_model_starts_as_published() -> None:
    torch.manual_seed(0)
    config = VARConfig(width=256, depth=2, num_heads=4, num_codes=512)
    model = VAR(config)
    deviation = math.sqrt(1 / (3 * 256))
    block = block_of(model, 0)

    def spread(weight: Tensor) -> float:
        return weight.detach().std().item() / deviation

    checks: dict[str, tuple[Tensor, float]] = {
        "positions": (model.positions, 1.0),
        "output": (model.output.weight, 0.02),
        "final": (model.final_modulation.weight, 0.5),
        "gates": (block.get_parameter("modulation.weight")[:512], 1e-3),
        "others": (block.get_parameter("modulation.weight")[512:], 0.5),
        "projection": (block.attention.projection.weight, 0.5),
        "mlp": (block.mlp_second.weight, 0.5),
    }
    for name, (weight, expected) in checks.items():
        assert spread(weight) == pytest.approx(expected, rel=0.05), name
    assert block.attention.head_scale.tolist() == pytest.approx([math.log(4)] * 4)


def test_blocks_are_left_out_for_some_images_in_training_alone() -> None:
    config = dataclasses.replace(TINY_VAR, stochastic_depth=0.5)
    model, inputs, labels = build(config), inputs_of(drawn_codes()), torch.tensor([0, 1, 2])
    assert [block_of(model, index).skip_probability for index in range(3)] == [0.0, 0.25, 0.5]
    still = model(inputs, labels)
    assert torch.equal(model(inputs, labels), still)
    block, tokens = block_of(model, 2).train(), torch.randn(400, 2, 32)
    modulation = torch.randn(1, 6, 32).expand(400, -1, -1)
    first = tokens[:1].expand(400, -1, -1)
    kept = block._kept(first)
    assert set(kept[:, 0, 0].div(first[0, 0, 0]).round(decimals=4).tolist()) == {0.0, 2.0}
    assert (kept[:, 0, 0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(block(tokens, modulation, None), block.eval()(tokens, modulation, None))


@pytest.mark.parametrize(
    ("build_config", "message"),
    [
        (lambda: VARConfig(scale_sides=(2, 4)), "begin with 1"),
        (lambda: VARConfig(scale_sides=(1, 4, 2)), "never fall"),
        (lambda: VARConfig(num_heads=15), "must divide width = 1024"),
        (lambda: VARConfig(gate_scale=0.0), r"must be in \(0, 1\]"),
        (lambda: VARConfig(num_branches=3), "must be a multiple of num_branches = 3"),
        (lambda: VARConfig(input_masking=1.5), r"input_masking = 1.5: must be in \[0, 1\]"),
    ],
)
def test_configs_that_do_not_fit_are_refused(build_config: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config()


def test_bf16_autocast_keeps_the_residual_stream_and_the_logits_in_fp32() -> None:
    model, inputs, labels = build(), inputs_of(drawn_codes()), torch.tensor([0, 1, 2])
    entering = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, given: entering.append(given[0].dtype))
    exact = model(inputs, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(inputs, labels)
        assert model.new_cache(labels).keys.dtype == torch.bfloat16
        model.scale_logits(None, 0, model.new_cache(labels))
    assert rounded.dtype == torch.float32
    assert set(entering) == {torch.float32}
    assert F.mse_loss(rounded, exact).sqrt() < 0.05 * exact.std()
