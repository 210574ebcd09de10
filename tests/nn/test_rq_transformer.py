"""RQ-Transformer: published sizes, a literal forward pass, what sees what, and one code at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glotok_ray.config.rq import RQConfig
from glotok_ray.interop.rq_generator import expected_state
from glotok_ray.nn.rq_transformer import RQTransformer
from glotok_ray.recipes.rq_transformers import RECIPES

TINY = RQConfig(
    grid_size=3,
    num_residuals=3,
    num_codes=17,
    code_width=5,
    width=16,
    depth=2,
    head_depth=2,
    num_heads=2,
    num_classes=4,
)
LABELS = torch.tensor([0, 3])


def build() -> RQTransformer:
    """Weights large enough that attention is far from uniform."""
    torch.manual_seed(1)
    model = RQTransformer(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def drawn_vectors(positions: int = 9) -> Tensor:
    return torch.randn(2, positions, 3, 5, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("rq_480m", 480_921_088),
        ("rq_821m", 820_899_328),
        ("rq_1400m", 1_387_529_728),
        ("rq_3800m", 3_822_488_064),
    ],
)
def test_published_sizes(name: str, total: int) -> None:
    assert sum(value.numel() for value in expected_state(RECIPES[name]().model).values()) == total


def literal_logits(model: RQTransformer, vectors: Tensor) -> Tensor:
    """What the facts say of the released code, code by code, with full softmaxes."""
    weights = dict(model.named_parameters())

    def linear(name: str, values: Tensor) -> Tensor:
        return F.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def normed(name: str, values: Tensor) -> Tensor:
        mean, variance = values.mean(-1, keepdim=True), values.var(-1, False, keepdim=True)
        scaled = (values - mean) / (variance + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def stack(name: str, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = torch.full((length, length), -math.inf).triu(1)
        for index in range(2):
            block = f"{name}.{index}"
            inner = normed(f"{block}.attention_norm", tokens)
            query, key, value = (
                linear(f"{block}.attention.{part}", inner).unflatten(-1, (2, 8))
                for part in ("query", "key", "value")
            )
            scores = torch.einsum("bqhw,bkhw->bhqk", query, key) / math.sqrt(8) + mask
            mixed = torch.einsum("bhqk,bkhw->bqhw", scores.softmax(-1), value).flatten(2)
            tokens = tokens + linear(f"{block}.attention.projection", mixed)
            inner = linear(f"{block}.mlp.first", normed(f"{block}.mlp_norm", tokens))
            inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
            tokens = tokens + linear(f"{block}.mlp.second", inner)
        return tokens

    # The bias of the first Linear comes once for every one of the three codes.
    product = F.linear(vectors.sum(2), weights["input_projection.weight"])
    cells = product + 3 * weights["input_projection.bias"] + weights["positions"]
    start = weights["class_embedding.weight"][LABELS] + weights["class_position"]
    hidden = stack("blocks", torch.cat([start[:, None], cells], dim=1)[:, :-1])
    parts = [hidden]
    for depth in (1, 2):
        parts.append(linear("head_projection", vectors[:, :, :depth].sum(2)))
    sequences = torch.stack(parts, dim=2) + weights["depth_positions"]
    sequences = stack("head_blocks", sequences.flatten(0, 1))
    return linear("output", normed("norm", sequences)).view(2, 9, 3, 17)


def test_logits_equal_a_literal_implementation() -> None:
    model, vectors = build(), drawn_vectors()
    expected = literal_logits(model, vectors)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(vectors, LABELS), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_one_code_at_a_time_equals_teacher_forcing() -> None:
    model, vectors = build(), drawn_vectors()
    whole, cache = model(vectors, LABELS), model.new_cache(2)
    for position in range(9):
        hidden = (
            model.next_position(vectors[:, position - 1], position, cache)
            if position
            else model.first_position(LABELS, cache)
        )
        head = model.new_head_cache(2)
        found = [model.first_residual(hidden, head)]
        for depth in (1, 2):
            summed = vectors[:, position, :depth].sum(1)
            found.append(model.next_residual(summed, depth, head))
        torch.testing.assert_close(torch.stack(found, 1), whole[:, position], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("position", "depth"), [(0, 0), (4, 1), (4, 2), (8, 2)])
@torch.no_grad()
def test_a_code_changes_what_comes_after_it_alone(position: int, depth: int) -> None:
    model, vectors = build(), drawn_vectors()
    other = vectors.clone()
    other[:, position, depth] += 1.0
    moved = (model(vectors, LABELS) - model(other, LABELS)).abs().amax(dim=(0, 3)).flatten()
    place = 3 * position + depth
    assert (moved[: place + 1] == 0).all()
    assert (moved[place + 1 :] > 1e-5).all()


def test_the_first_positions_alone_are_the_first_logits() -> None:
    model, vectors = build(), drawn_vectors()
    torch.testing.assert_close(
        model(vectors[:, :4], LABELS), model(vectors, LABELS)[:, :4], atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ValueError, match="vectors: 2 codes at 9 positions; the model has 3"):
        model(vectors[:, :, :2], LABELS)


def test_every_parameter_receives_a_gradient() -> None:
    model = build()
    F.cross_entropy(model(drawn_vectors(), LABELS).flatten(0, 2), torch.arange(54) % 17).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must divide width = 1536"):
        RQConfig(num_heads=23)
