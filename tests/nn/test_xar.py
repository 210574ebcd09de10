"""XAR: sizes, what an entity sees, conditioning, dropout, learning."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from glotok_ray.config import XARConfig
from glotok_ray.losses.flow_matching import flow_matching_loss, noisy_entities
from glotok_ray.nn import xar_blocks
from glotok_ray.nn.xar import XAR
from glotok_ray.nn.xar_blocks import attention_in_context, entity_attention

TINY = XARConfig(
    grid_size=4, cell_size=2, channels=6, width=32, depth=2, num_heads=2, num_classes=5, dropout=0.0
)


def build(config: XARConfig = TINY, **changes: object) -> XAR:
    torch.manual_seed(0)
    return XAR(dataclasses.replace(config, **changes)).eval()


def inputs(config: XARConfig, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    noisy = torch.randn(batch, config.num_tokens, config.channels, generator=draw)
    times = torch.rand(batch, config.num_entities, generator=draw)
    return noisy, times, torch.arange(batch) % config.num_classes


@pytest.mark.parametrize(
    ("width", "depth", "heads", "total"),
    [
        (768, 16, 12, 172_638_224),
        (1024, 32, 16, 608_397_968),
        (1280, 40, 16, 1_186_024_096),
    ],
)
def test_published_sizes(width: int, depth: int, heads: int, total: int) -> None:
    with torch.device("meta"):
        model = XAR(XARConfig(width=width, depth=depth, num_heads=heads))
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_the_state_dict_carries_the_latent_scale_and_nothing_else_besides_parameters() -> None:
    model = build()
    names = set(model.state_dict()) - {name for name, _ in model.named_parameters()}
    assert names == {"latent_scale"}
    assert torch.equal(model.latent_scale, torch.ones(TINY.channels))


def test_denormalize_divides_each_channel_by_its_scale() -> None:
    model = build()
    model.latent_scale.copy_(torch.arange(1.0, 7.0))
    latents = torch.randn(2, 6, 4, 4)
    for channel in range(6):
        expected = latents[:, channel] / (channel + 1)
        assert torch.allclose(model.denormalize(latents)[:, channel], expected)


ENTITIES = [
    TINY,
    dataclasses.replace(TINY, grid_size=6, cell_size=3, channels=3),
    dataclasses.replace(TINY, grid_size=10, cell_size=2),  # 25 entities: the masked form
    dataclasses.replace(TINY, entity="token"),
    dataclasses.replace(TINY, entity="subsample"),
    dataclasses.replace(TINY, entity="scale"),
    dataclasses.replace(TINY, entity="scale", scale_sides=(2, 4)),
    dataclasses.replace(TINY, entity="image"),
]


def spans(config: XARConfig) -> list[slice]:
    """The tokens of every entity."""
    ends = [sum(config.entity_lengths[:count]) for count in range(config.num_entities + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("config", ENTITIES)
def test_no_entity_sees_a_later_one(config: XARConfig) -> None:
    model = build(config)
    noisy, times, labels = inputs(config)
    before = model(noisy, times, labels)
    for entity in {0, config.num_entities // 2, config.num_entities - 1}:
        span = spans(config)[entity]
        moved, later = noisy.clone(), times.clone()
        moved[:, span] += 1
        later[:, entity] = (later[:, entity] + 0.5) % 1
        for changed in (model(moved, times, labels), model(noisy, later, labels)):
            difference = (changed - before).abs().amax(dim=(0, 2))
            assert (difference[: span.start] < 1e-6).all()
            assert (difference[span.start :] > 1e-5).all()


@pytest.mark.parametrize("config", ENTITIES)
def test_with_a_clean_context_an_entity_sees_it_in_place_of_noisy_ones(config: XARConfig) -> None:
    model = build(config)
    noisy, times, labels = inputs(config)
    clean = torch.randn_like(noisy)
    found = model(noisy, times, labels, clean)
    for entity, span in enumerate(spans(config)):
        mixed = torch.cat([clean[:, : span.start], noisy[:, span]], dim=1)
        mixed_times = torch.cat([torch.zeros(2, entity), times[:, entity : entity + 1]], dim=1)
        alone = model(mixed, mixed_times, labels)[:, span.start :]
        assert torch.allclose(found[:, span], alone, atol=1e-5)


def test_attention_inside_a_cell_looks_both_ways() -> None:
    model = build()
    noisy, times, labels = inputs(TINY)
    moved = noisy.clone()
    moved[:, 3] += 1  # the last token of the first cell
    difference = model(moved, times, labels) - model(noisy, times, labels)
    assert (difference[:, 0].abs() > 1e-6).any()


@pytest.mark.parametrize("lengths", [(3, 3, 3, 3), (1, 4, 7), (12,), (1,) * 12])
def test_attention_equals_the_literal_masked_form(
    lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value = torch.randn(3, 2, 3, 12, 8, dtype=torch.float64).unbind(0)
    past_key, past_value = torch.randn(2, 2, 3, 12, 8, dtype=torch.float64).unbind(0)
    entity = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    earlier, own = entity[:, None] > entity[None], entity[:, None] == entity[None]

    def literal(keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        scores = query @ keys.transpose(-1, -2) / 8**0.5
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values

    causal = literal(key, value, earlier | own)
    both = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
    forced = literal(*both, torch.cat([earlier, own], dim=1))
    for most in (16, 0):  # one call per entity, and one masked call
        monkeypatch.setattr(xar_blocks, "_MOST_PREFIX_CALLS", most)
        assert torch.allclose(entity_attention(query, key, value, lengths), causal, atol=1e-12)
        found = attention_in_context(query, (past_key, key), (past_value, value), lengths)
        assert torch.allclose(found, forced, atol=1e-12)


@pytest.mark.parametrize("config", ENTITIES)
def test_entity_by_entity_with_the_cache_equals_the_full_pass(config: XARConfig) -> None:
    model = build(config)
    noisy, times, labels = inputs(config)
    clean = torch.randn_like(noisy)
    cache = model.new_cache(2)
    expected = model(noisy, times, labels, clean)
    for entity, span in enumerate(spans(config)):
        arguments = {"entity": entity, "cache": cache}
        found = model.forward_entity(noisy[:, span], times[:, entity], labels, **arguments)
        assert torch.allclose(found, expected[:, span], atol=1e-5)
        model.forward_entity(clean[:, span], torch.zeros(2), labels, **arguments)


def test_first_cells_alone_equal_the_start_of_the_full_pass() -> None:
    model = build()
    noisy, times, labels = inputs(TINY)
    start = model(noisy[:, :8], times[:, :2], labels)
    assert torch.allclose(start, model(noisy, times, labels)[:, :8], atol=1e-6)


def test_the_null_label_is_the_row_after_the_last_class() -> None:
    model = build()
    assert model.null_label == TINY.num_classes == 5
    assert model.class_embedding.weight.shape == (6, TINY.width)
    assert XARConfig().num_classes == 1000
    noisy, times, _ = inputs(TINY)
    null = torch.full((2,), model.null_label)
    before = model(noisy, times, null)
    with torch.no_grad():
        model.class_embedding.weight[:5] += 1
    assert torch.equal(model(noisy, times, null), before)


def test_mlp_is_gated_by_gelu() -> None:
    mlp = build().blocks[0].mlp
    tokens = torch.randn(3, TINY.width)
    expected = mlp.down(F.gelu(mlp.gate(tokens)) * mlp.value(tokens))
    assert torch.allclose(mlp(tokens), expected)
    assert mlp.gate.out_features == int(8 * 32 / 3) == 85
    assert build(mlp_multiple=8).blocks[0].mlp.gate.out_features == 88


def test_time_is_cut_to_thousandths() -> None:
    embedding = build().time_embedding
    assert torch.equal(embedding(torch.tensor(0.5001)), embedding(torch.tensor(0.5009)))
    assert not torch.equal(embedding(torch.tensor(0.5001)), embedding(torch.tensor(0.5011)))


def test_dropout_acts_in_training_only_and_on_attention_too() -> None:
    model = build(dropout=0.5)
    noisy, times, labels = inputs(TINY)
    assert torch.equal(model(noisy, times, labels), model(noisy, times, labels))
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    assert not torch.equal(model(noisy, times, labels), model(noisy, times, labels))


@pytest.mark.parametrize("config", ENTITIES)
def test_gradient_reaches_every_parameter(config: XARConfig) -> None:
    model = build(config).train()
    noisy, times, _ = inputs(config, batch=6)
    velocity = model(noisy, times, torch.arange(6))
    flow_matching_loss(velocity, torch.randn_like(noisy), torch.randn_like(noisy)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[None]
        assert (rows.abs().amax(dim=1) > 0).all(), name


def test_zero_gates_start_as_the_identity_of_every_block() -> None:
    noisy, times, labels = inputs(TINY)
    model = build(zero_init_gates=True)
    assert torch.equal(model(noisy, times, labels), model(noisy, 1 - times, labels + 1))
    assert not torch.equal(build()(noisy, times, labels), build()(noisy, 1 - times, labels))
    velocity = model(noisy, times, labels)
    velocity.square().mean().backward()
    assert model.blocks[0].modulation.weight.grad.abs().max() > 0


def test_a_batch_of_one_works_and_equals_its_place_in_a_larger_one() -> None:
    model = build()
    noisy, times, labels = inputs(TINY, batch=3)
    alone = model(noisy[1:2], times[1:2], labels[1:2])
    assert alone.shape == (1, 16, 6)
    assert torch.allclose(alone, model(noisy, times, labels)[1:2], atol=1e-6)


def test_a_bf16_model_takes_fp32_inputs() -> None:
    noisy, times, labels = inputs(TINY)
    exact = build()(noisy, times, labels)
    rounded = build().bfloat16()(noisy, times, labels)
    assert rounded.dtype == torch.bfloat16
    assert F.mse_loss(rounded.float(), exact) < 1e-3 * exact.square().mean()


def test_a_fixed_batch_is_learned() -> None:
    model = build().train()
    clean, times, labels = inputs(TINY, batch=4)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        velocity = model(noisy_entities(clean, noise, times, TINY.entity_lengths), times, labels)
        loss = flow_matching_loss(velocity, clean, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
