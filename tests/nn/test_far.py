"""FAR and LlamaGen's GPT: sizes, positions, what sees what, one position at a time, gradients, precision."""

import functools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from glotok_ray.config import FARConfig, VocabularyConfig
from glotok_ray.losses.token_prediction import codebook_cross_entropies, token_prediction_loss
from glotok_ray.nn.far import FAR
from glotok_ray.nn.far_blocks import FARBlock, attend_with_zero_logit, learned_norm

SHAPES = Path(__file__).parents[1] / "interop" / "shapes"
SIZES = (11, 7, 13)


def vocabulary(**sizes: int) -> tuple[VocabularyConfig, ...]:
    return tuple(VocabularyConfig(name=name, size=size) for name, size in sizes.items())


PAIR = vocabulary(visual=16384, semantic=16384)
GLOTOK = vocabulary(visual=12288, semantic=4096)
SINGLE = vocabulary(only=16384)
FAR_B = FARConfig(codebooks=PAIR)
FAR_L = FARConfig(codebooks=PAIR, width=1280, depth=36, head_depth=4, num_heads=20)
GPT_B = FARConfig(codebooks=SINGLE, width=768, depth=12, head_depth=0, num_heads=12)
GPT_L = FARConfig(codebooks=SINGLE, head_depth=0)
GLOTOK_B = FARConfig(codebooks=GLOTOK)
GLOTOK_L = FARConfig(codebooks=GLOTOK, width=1280, depth=36, head_depth=4, num_heads=20)


def tiny(count: int) -> FARConfig:
    """A small model of `count` codebooks of different sizes."""
    return FARConfig(
        grid_size=3,
        codebooks=tuple(
            VocabularyConfig(name=f"book{index}", size=SIZES[index]) for index in range(count)
        ),
        width=32,
        depth=2,
        head_depth=2 if count > 1 else 0,
        num_heads=2,
        mlp_multiple=16,
        num_classes=5,
    )


def build(count: int) -> FAR:
    """Weights large enough that attention is far from uniform, and outputs that are not zero."""
    torch.manual_seed(count)
    model = FAR(tiny(count)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
            else:
                parameter.normal_(1.0, 0.2)
    return model


def inputs(count: int, *, batch: int = 3, length: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    codes = [torch.randint(size, (batch, length), generator=generator) for size in SIZES[:count]]
    return torch.stack(codes, dim=1), torch.arange(batch) % 6


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (FAR_B, 417104896),
        (FAR_L, 901195520),
        (GPT_B, 110888448),
        (GPT_L, 342910976),
        (GLOTOK_B, 383550464),
        (GLOTOK_L, 859252480),
    ],
)
def test_published_sizes(config: FARConfig, total: int) -> None:
    with torch.device("meta"):
        model = FAR(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    assert list(model.buffers()) == []


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FAR_B, "far_b_16384x2"),
        (FAR_L, "far_l_16384x2"),
        (GPT_B, "llamagen_gpt_b_c2i"),
        (GPT_L, "llamagen_gpt_l_c2i"),
    ],
)
def test_shapes_are_those_of_the_released_models(config: FARConfig, name: str) -> None:
    theirs = json.loads((SHAPES / f"{name}.json").read_text())["shapes"]
    with torch.device("meta"):
        model = FAR(config)
    assert sorted(list(each.shape) for each in model.parameters()) == sorted(theirs.values())


def literal_norm(tokens: Tensor, weight: Tensor) -> Tensor:
    return tokens / (tokens.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight


def literal_rotate(vectors: Tensor, place: int, grid: int) -> Tensor:
    """Vectors (..., width) of the element at `place` of a sequence, as complex numbers times e^(i angle)."""
    if place == 0:
        return torch.zeros_like(vectors)
    row, column = divmod(place - 1, grid)
    half = vectors.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(0, half, 2) / half)
    angles = torch.cat([row * frequencies, column * frequencies])
    turned = torch.view_as_complex(vectors.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(turned * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def literal_block(block: FARBlock, tokens: Tensor, config: FARConfig) -> Tensor:
    """The block with a mask and a full softmax, element by element, over any sequence (b, n, d)."""
    weights = dict(block.named_parameters())
    width = config.width // config.num_heads
    normed = literal_norm(tokens, weights["attention_norm.weight"])
    stacked = normed @ weights["attention.query_key_value.weight"].T
    query, key, value = (part.unflatten(-1, (-1, width)) for part in stacked.chunk(3, dim=-1))
    places = range(tokens.shape[1])
    query, key = (
        torch.stack([literal_rotate(part[:, p], p, config.grid_size) for p in places], dim=1)
        for part in (query, key)
    )
    scores = torch.einsum("bqhw,bkhw->bhqk", query, key) / math.sqrt(width)
    mask = torch.ones(len(places), len(places)).tril().bool()
    mixing = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    mixed = torch.einsum("bhqk,bkhw->bqhw", mixing, value).flatten(2)
    tokens = tokens + mixed @ weights["attention.projection.weight"].T
    normed = literal_norm(tokens, weights["mlp_norm.weight"])
    gate = normed @ weights["mlp.gate.weight"].T
    hidden = gate * gate.sigmoid() * (normed @ weights["mlp.value.weight"].T)
    return tokens + hidden @ weights["mlp.down.weight"].T


def literal_forward(model: FAR, codes: Tensor, labels: Tensor) -> list[Tensor]:
    """What the module's text says, with nothing left out; one position's head after another."""
    config, weights = model.config, dict(model.named_parameters())
    count, length = codes.shape[1:]
    tables = [weights[f"embeddings.{index}.weight"] for index in range(count)]
    previous = torch.cat([table[codes[:, i, :-1]] for i, table in enumerate(tables)], dim=-1)
    if count > 1:
        previous = previous @ weights["aggregation.weight"].T + weights["aggregation.bias"]
    tokens = torch.cat([weights["class_embedding.weight"][labels].unsqueeze(1), previous], dim=1)
    for block in model.blocks:
        tokens = literal_block(block, tokens, config)
    logits = [[] for _ in range(count)]
    for position in range(length):
        inner = [table[codes[:, i, position]] for i, table in enumerate(tables[:-1])]
        sequence = torch.stack([tokens[:, position], *inner], dim=1)
        for block in model.head_blocks:
            sequence = literal_block(block, sequence, config)
        normed = literal_norm(sequence, weights["norm.weight"])
        for index in range(count):
            logits[index].append(normed[:, index] @ weights[f"outputs.{index}.weight"].T)
    return [torch.stack(each, dim=1) for each in logits]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_logits_equal_a_literal_implementation_with_masks(count: int) -> None:
    model, (codes, labels) = build(count), inputs(count)
    found, expected = model(codes, labels), literal_forward(model, codes, labels)
    assert [each.shape for each in found] == [(3, 9, size) for size in SIZES[:count]]
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.1
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_one_position_at_a_time_equals_teacher_forcing(count: int, batch: int) -> None:
    model, (codes, labels) = build(count), inputs(count, batch=batch)
    expected = model(codes, labels)
    cache = model.new_cache(batch)
    for position in range(9):
        if position == 0:
            hidden = model.first_position(labels, cache)
        else:
            hidden = model.next_position(codes[:, :, position - 1], position, cache)
        logits, memory = model.first_codebook(hidden, cache)
        for index in range(count):
            if index > 0:
                logits = model.next_codebook(codes[:, index - 1, position], index, memory)
            assert torch.allclose(logits, expected[index][:, position], atol=1e-5)


def test_a_view_of_a_caches_first_rows_continues_them_alone() -> None:
    # fp64: in fp32 some processors round two rows by another kernel than three.
    model, (codes, labels) = build(2).double(), inputs(2)
    cache = model.new_cache(3)
    model.first_position(labels, cache)
    whole = model.next_position(codes[:, :, 0], 1, cache)
    part = model.next_position(codes[:2, :, 0], 1, cache.rows(2))
    assert torch.allclose(part, whole[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("training", [False, True])
def test_a_code_changes_what_comes_after_it_alone(count: int, training: bool) -> None:
    model, (codes, labels) = build(count).train(training), inputs(count)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = model(codes, labels)
    position = 4
    for changed in range(count):
        other = codes.clone()
        other[:, changed, position] = (other[:, changed, position] + 1) % SIZES[changed]
        after = model(other, labels)
        for index in range(count):
            same = position if index > changed else position + 1
            assert torch.equal(after[index][:, :same], before[index][:, :same])
            moved = (after[index] - before[index])[:, same:].abs().amax(dim=(0, 2))
            assert (moved > 1e-4).all()


def test_the_class_reaches_every_position() -> None:
    model, (codes, labels) = build(2), inputs(2)
    for first, second in zip(model(codes, labels), model(codes, labels + 1), strict=True):
        assert ((first - second).abs().amax(dim=(0, 2)) > 1e-4).all()


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_positions_are_the_first_ones(count: int) -> None:
    model, (codes, labels) = build(count), inputs(count)
    for length in (1, 5):
        for short, whole in zip(
            model(codes[:, :, :length], labels), model(codes, labels), strict=True
        ):
            assert torch.allclose(short, whole[:, :length], atol=1e-5)


def test_codes_of_another_shape_are_refused() -> None:
    model, (codes, labels) = build(2), inputs(2)
    with pytest.raises(ValueError, match=r"codes: 1 codebooks .*book0, book1"):
        model(codes[:, :1], labels)
    with pytest.raises(ValueError, match=r"10 positions; .* 1 to 9 positions"):
        model(torch.cat([codes, codes[:, :, :1]], dim=2), labels)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_new_model_knows_nothing_and_its_loss_is_the_mean_log_size(count: int) -> None:
    model, (codes, labels) = FAR(tiny(count)), inputs(count)
    logits = model(codes, labels)
    assert all(torch.equal(each, torch.zeros_like(each)) for each in logits)
    expected = sum(math.log(size) for size in SIZES[:count]) / count
    assert token_prediction_loss(codebook_cross_entropies(logits, codes)).item() == pytest.approx(
        expected
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_parameter_receives_a_gradient(count: int) -> None:
    model, (codes, labels) = build(count).train(), inputs(count)
    token_prediction_loss(codebook_cross_entropies(model(codes, labels), codes)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_acts_on_tokens_and_in_every_block_of_trunk_and_head() -> None:
    model, (codes, labels) = build(2), inputs(2)
    still = model(codes, labels)
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(dropouts) == 1 + 2 + 2
    for chosen in dropouts:
        model.eval()
        chosen.train()
        assert not torch.equal(model(codes, labels)[1], still[1])


def test_recomputed_blocks_give_the_same_gradients() -> None:
    codes, labels = inputs(3)
    gradients = []
    for recomputes in (False, True):
        model = build(3)
        if recomputes:
            blocks = [module for module in model.modules() if isinstance(module, FARBlock)]
            assert len(blocks) == 4
            for block in blocks:
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        token_prediction_loss(codebook_cross_entropies(model(codes, labels), codes)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_the_head_attends_with_a_zero_logit_for_what_leads() -> None:
    query, key, first, second = torch.randn(4, 5, 2, 8).unbind(0)
    share = torch.sigmoid((query * key).sum(dim=-1, keepdim=True) / math.sqrt(8))
    expected = (1 - share) * first + share * second
    assert torch.allclose(
        attend_with_zero_logit(query, [key], [first, second]), expected, atol=1e-6
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bf16_weights_stay_near_fp32(count: int) -> None:
    model, (codes, labels) = FAR(tiny(count)).eval(), inputs(count)
    for output in model.outputs:
        torch.nn.init.normal_(output.weight)
    exact = model(codes, labels)
    rounded = model.bfloat16()(codes, labels)
    cache = model.new_cache(3)
    assert cache.keys.dtype == torch.bfloat16
    stepped, _ = model.first_codebook(model.first_position(labels, cache), cache)
    assert stepped.dtype == torch.bfloat16
    assert (stepped.float() - exact[0][:, 0]).abs().max() < 0.05 * exact[0].std()
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert F.mse_loss(ours.float(), theirs).sqrt() < 0.02 * theirs.std()


def test_autocast_decides_the_caches_dtype() -> None:
    model, (codes, labels) = build(2), inputs(2)
    expected = model(codes, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = model.new_cache(3)
        assert cache.values.dtype == torch.bfloat16
        model.first_position(labels, cache)
        logits, memory = model.first_codebook(model.next_position(codes[:, :, 0], 1, cache), cache)
        second = model.next_codebook(codes[:, 0, 1], 1, memory)
    for ours, theirs in ((logits, expected[0]), (second, expected[1])):
        assert F.mse_loss(ours.float(), theirs[:, 1]).sqrt() < 0.05 * theirs.std()
    assert model.new_cache(3).keys.dtype == torch.float32


def test_the_residual_stream_stays_fp32_under_autocast() -> None:
    model, (codes, labels) = build(2), inputs(2)
    cache, entering = model.new_cache(3), []
    for block in (*model.blocks, *model.head_blocks):
        block.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(codes, labels)
        model.next_position(codes[:, :, 0], 0, cache)
    assert entering == [torch.float32] * 6


@pytest.mark.parametrize("scale", [1e-3, 300.0])
def test_norms_square_in_fp32(scale: float) -> None:
    norm, tokens = learned_norm(4096).bfloat16(), (scale * torch.randn(5, 4096)).bfloat16()
    exact = literal_norm(tokens.double(), norm.weight.double())
    assert torch.equal(norm(tokens), exact.bfloat16())
