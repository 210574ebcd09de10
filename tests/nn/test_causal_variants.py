"""The causal family's other variants: IBQ with one and two codebooks, and GPTs with the class in three places."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glotok_ray.config import FARConfig, FARRun, TokenSamplerConfig, VocabularyConfig, override
from glotok_ray.config.causal import CausalVariantConfig
from glotok_ray.losses.token_prediction import (
    codebook_cross_entropies,
    replace_codes,
    token_prediction_loss,
)
from glotok_ray.nn.far import FAR
from glotok_ray.sampling.images import network_evaluations
from glotok_ray.sampling.tokens import sample_codes

SIZES, CLASSES = (11, 7), 5


def tiny(count: int, block: str, **variant: Any) -> FARConfig:
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
        num_classes=CLASSES,
        dropout=0.0,
        token_dropout=0.0,
        variant=CausalVariantConfig(block=block, **variant),  # type: ignore[arg-type]
    )


VARIANTS = {
    "ibq": tiny(1, "ibq"),
    "ibq_with_head": tiny(2, "ibq"),
    "gpt": tiny(1, "gpt"),
    "taming": tiny(1, "gpt", class_input="among_codes"),
    "vqgan_lc": tiny(1, "gpt", class_input="after_codes", unread_positions=1),
}
WITH_NULL = ("ibq", "ibq_with_head", "gpt")


def build(name: str) -> FAR:
    """Weights large enough that attention is far from uniform, and outputs that are not zero."""
    torch.manual_seed(1)
    model = FAR(VARIANTS[name]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(model: FAR, batch: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    sizes = [book.size for book in model.config.codebooks]
    codes = [torch.randint(size, (batch, 9), generator=draw) for size in sizes]
    return torch.stack(codes, dim=1), torch.arange(batch) % CLASSES


@pytest.mark.parametrize("name", VARIANTS)
def test_one_position_at_a_time_equals_teacher_forcing(name: str) -> None:
    model = build(name)
    codes, labels = inputs(model)
    expected, cache = model(codes, labels), model.new_cache(3)
    for position in range(9):
        if position == 0:
            hidden = model.first_position(labels, cache)
        else:
            hidden = model.next_position(codes[:, :, position - 1], position, cache)
        logits, memory = model.first_codebook(hidden, cache)
        for index, book in enumerate(model.config.codebooks):
            if index > 0:
                logits = model.next_codebook(codes[:, index - 1, position], index, memory)
            whole = expected[index][:, position]
            assert logits.shape[-1] == book.size
            torch.testing.assert_close(logits, whole[:, : book.size], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_images_of_a_cache_go_on_alone(name: str) -> None:
    model = build(name).double()
    codes, labels = inputs(model)
    cache = model.new_cache(3)
    model.first_position(labels, cache)
    whole = model.next_position(codes[:, :, 0], 1, cache)
    part = model.next_position(codes[:2, :, 0], 1, cache.rows(2))
    torch.testing.assert_close(part, whole[:2], rtol=0, atol=1e-12)
    logits, _ = model.first_codebook(whole[:2], cache)
    torch.testing.assert_close(logits, model.first_codebook(whole, cache)[0][:2])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_code_changes_what_comes_after_it_alone(name: str) -> None:
    model = build(name)
    codes, labels = inputs(model)
    before, other = model(codes, labels), codes.clone()
    other[:, -1, 4] = (other[:, -1, 4] + 1) % SIZES[codes.shape[1] - 1]
    for first, second in zip(before, model(other, labels), strict=True):
        assert torch.equal(first[:, :5], second[:, :5])
        assert ((first - second)[:, 5:].abs().amax(dim=(0, 2)) > 1e-4).all()
    for first, second in zip(before, model(codes, (labels + 1) % CLASSES), strict=True):
        assert ((first - second).abs().amax(dim=(0, 2)) > 1e-4).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_receives_a_gradient(name: str) -> None:
    model = build(name).train()
    codes, labels = inputs(model)
    token_prediction_loss(codebook_cross_entropies(model(codes, labels), codes)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_a_new_ibq_is_the_identity_under_a_zero_output() -> None:
    model = FAR(tiny(1, "ibq", gate_scale=1e-4))
    codes, labels = inputs(model)
    assert not model(codes, labels)[0].any()
    tokens = torch.randn(3, 9, 32)
    modulation = model.modulation(model.class_embedding(labels)).blocks[0]
    moved = model.blocks[0](tokens, model.new_cache(1).rotation, None, modulation)
    assert 0 < (moved - tokens).abs().max() < 1e-4
    with torch.no_grad():
        plain = model.modulation.blocks[1].get_parameter("weight")
        assert plain[64:].std().item() == pytest.approx(0.01, rel=0.05)
        assert plain[:64].std().item() == pytest.approx(2e-6, rel=0.05)


def test_a_new_gpt_has_no_positions_and_draws_its_output() -> None:
    model = FAR(VARIANTS["vqgan_lc"])
    assert model.positions.shape == (10, 32)
    assert not model.positions.any()
    output = model.outputs[0].get_parameter("weight")
    assert output.std().item() == pytest.approx(0.02, rel=0.2)
    assert output.shape == (SIZES[0] + CLASSES, 32)


@pytest.mark.parametrize("name", VARIANTS)
def test_sampled_images_do_not_depend_on_their_batch_and_are_codes(name: str) -> None:
    model = build(name)
    sampler = TokenSamplerConfig(guidance_scale=2.5 if name in WITH_NULL else 1.0, temperature=1.2)
    labels = torch.arange(4)
    whole = sample_codes(model, labels, sampler, image_ids=[0, 1, 2, 3], seed=3)
    alone = sample_codes(model, labels[2:3], sampler, image_ids=[2], seed=3)
    assert torch.equal(whole[2:3], alone)
    for index, book in enumerate(model.config.codebooks):
        assert 0 <= int(whole[:, index].min()) <= int(whole[:, index].max()) < book.size
    assert not torch.equal(whole, sample_codes(model, labels, sampler, image_ids=range(4), seed=4))


@pytest.mark.parametrize("name", VARIANTS)
def test_models_without_a_null_label_refuse_guidance_and_dropped_labels(name: str) -> None:
    model, guided = build(name), TokenSamplerConfig(guidance_scale=1.5)
    if name in WITH_NULL:
        FARRun(model=model.config)
        assert network_evaluations(model.config, guided) == 18
        return
    with pytest.raises(ValueError, match=r"guidance_scale = 1\.5: must be 1, since .*null label"):
        sample_codes(model, torch.zeros(1).long(), guided, image_ids=[0], seed=0)
    with pytest.raises(ValueError, match=r"guidance_scale = 1\.5: must be 1"):
        network_evaluations(model.config, guided)
    with pytest.raises(ValueError, match=r"label_dropout = 0\.1: must be 0 with model\.variant"):
        FARRun(model=model.config)
    run = FARRun(model=model.config, label_dropout=0.0)
    with pytest.raises(ValueError, match=r"checkpoint_evaluation\.sampler\.guidance_scale = 2\.0"):
        override(run, {"checkpoint_evaluation.every_steps": 10})


def test_code_noise_replaces_a_share_by_all_entries_and_follows_its_generator() -> None:
    codes = torch.zeros(50, 2, 200, dtype=torch.int64)
    noisy = [
        replace_codes(codes, (4, 100), 0.2, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    for index, size in enumerate((4, 100)):
        found = noisy[0][:, index]
        changed = (found != 0).double().mean().item()
        assert changed == pytest.approx(0.2 * (1 - 1 / size), abs=4 * math.sqrt(0.16 / 10000))
        assert int(found.max()) == size - 1
    assert torch.equal(replace_codes(codes, (4, 100), 0.0, torch.Generator()), codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant.block": "ibq", "variant.class_input": "after_codes"}, 'must be "own_table"'),
        ({"variant.unread_positions": 1}, "which alone learns its positions"),
        ({"variant.block": "ibq", "variant.gate_scale": 0.0}, r"must be in \(0, 1\]"),
        ({"variant.block": "gpt"}, "must hold a single codebook"),
    ],
)
def test_variants_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(tiny(2, "llama"), changes)


def test_classes_that_share_rows_with_codes_must_find_them() -> None:
    with pytest.raises(ValueError, match=r"num_classes = 12: must be at most the 11 codes"):
        override(VARIANTS["taming"], {"num_classes": 12})
