"""From labels to images: the parts in their order, the tokenizer of the codes, and what is refused."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile

from glotok_ray.config import (
    CodebookConfig,
    FARConfig,
    FlowConfig,
    FlowSamplerConfig,
    TokenSamplerConfig,
    VocabularyConfig,
    XARConfig,
    to_dict,
)
from glotok_ray.data.pixel_range import to_uint8
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.generator import find_tokenizer, load_generator, save_generator
from glotok_ray.sampling.flow import sample_latents
from glotok_ray.sampling.images import ImageGenerator, network_evaluations
from glotok_ray.sampling.tokens import sample_codes
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from tests.small_models import VISUAL, tiny_tokenizer

TOKENIZER = tiny_tokenizer(
    VISUAL, CodebookConfig(name="semantic", size=16, width=2), adapter_depth=0
)
CELLS = XARConfig(
    grid_size=4, cell_size=2, channels=6, width=32, depth=2, num_heads=2, num_classes=5
)
# In the other order than the tokenizer's.
TOKENS = FARConfig(
    grid_size=4,
    codebooks=(
        VocabularyConfig(name="semantic", size=16),
        VocabularyConfig(name="visual", size=32),
    ),
    width=32,
    depth=1,
    head_depth=1,
    num_heads=2,
    mlp_multiple=8,
    num_classes=5,
)
FLOW_SAMPLER = FlowSamplerConfig(num_steps=2)
LABELS = [0, 4, 2]


def write_generator(folder: Path, tokenizer: Path, **flow: Any) -> None:
    """An xAR where settings of its flow are given, else a FAR; with a copy of its tokenizer."""
    kind, config = (XAR, CELLS) if flow else (FAR, TOKENS)
    states = []
    for _ in range(2):
        model = kind(config)
        for parameter in model.parameters():
            # Outputs of a FAR begin at zero, where every code is equally likely.
            torch.nn.init.normal_(parameter, std=0.3)
        states.append(model.state_dict())
    facts = {
        "architecture": "xar" if flow else "far",
        "model": to_dict(config),
        "tokenizer_sha256": artefact.sha256_of(tokenizer / "tokenizer.safetensors"),
        "classes": list("abcde"),
    }
    if flow:
        facts["flow"] = to_dict(FlowConfig(**flow))
    save_generator(folder, states[0], states[1], facts)
    shutil.copytree(tokenizer, folder / "tokenizer")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders tokenizer and other_tokenizer; xar, refined (on refined vectors) and far, of the first."""
    folder = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    for name in ("tokenizer", "other_tokenizer"):
        model = GloTokTokenizer(TOKENIZER)
        for branch in model.branches.values():
            # Residual predictors start at the identity; moved away from it, a decode without them shows.
            for parameter in branch.residual.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder / name)
    write_generator(folder / "xar", folder / "tokenizer", latent_space="codes")
    write_generator(folder / "refined", folder / "tokenizer", latent_space="codes_plus_residual")
    write_generator(folder / "far", folder / "tokenizer")
    return folder


def drawn_latents(folder: Path) -> tuple[torch.Tensor, GloTokTokenizer]:
    model = load_generator(folder, use_ema=True)
    latents = sample_latents(model, torch.tensor(LABELS), FLOW_SAMPLER, image_ids=[7, 8, 9], seed=3)
    return latents, GloTokTokenizer.from_pretrained(folder / "tokenizer")


@pytest.mark.parametrize("snap", ["off", "on"])
def test_xar_snaps_where_asked_and_refines_bare_codes(inputs: Path, snap: Any) -> None:
    sampler = dataclasses.replace(FLOW_SAMPLER, snap=snap)
    # Snapped latents are bare codes, also of a generator that draws refined ones.
    for name, refine in (("xar", True), ("refined", snap == "on")):
        latents, tokenizer = drawn_latents(inputs / name)
        latents = tokenizer.snap(latents) if snap == "on" else latents
        expected = to_uint8(tokenizer.decode_latents(latents, refine=refine))
        found = ImageGenerator.from_pretrained(inputs / name).generate(
            LABELS, seed=3, image_ids=[7, 8, 9], sampler=sampler
        )
        assert (found.shape, found.dtype) == ((3, 16, 16, 3), np.uint8)
        np.testing.assert_array_equal(found, expected)
        other = to_uint8(tokenizer.decode_latents(latents, refine=not refine))
        assert not np.array_equal(found, other)


def test_far_decodes_codes_in_the_tokenizers_order_of_codebooks(inputs: Path) -> None:
    model = load_generator(inputs / "far", use_ema=True)
    sampler = TokenSamplerConfig(guidance_scale=1.5)
    labels = torch.tensor(LABELS)
    codes = sample_codes(model, labels, sampler, image_ids=range(3), seed=3)
    semantic, visual = codes.reshape(3, 2, 4, 4).unbind(1)
    tokenizer = GloTokTokenizer.from_pretrained(inputs / "tokenizer")
    expected = to_uint8(tokenizer.decode(torch.stack([visual, semantic], dim=1)))
    found = ImageGenerator.from_pretrained(inputs / "far").generate(LABELS, seed=3, sampler=sampler)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(visual)) > 8


@pytest.mark.parametrize(
    ("name", "sampler"), [("xar", FLOW_SAMPLER), ("far", TokenSamplerConfig())]
)
def test_an_image_depends_on_its_label_its_id_and_the_seed_alone(
    inputs: Path, name: str, sampler: Any
) -> None:
    images = ImageGenerator.from_pretrained(inputs / name)

    def draw(labels: list[int], ids: list[int], seed: int = 3) -> np.ndarray:
        return images.generate(labels, seed=seed, image_ids=ids, sampler=sampler).astype(int)

    alone = draw([4], [1])
    # Sums of another batch size may round otherwise, by a level at most.
    assert np.abs(draw(LABELS, [0, 1, 2])[1] - alone[0]).max() <= 1
    for other in (draw([4], [1], seed=4), draw([4], [2]), draw([3], [1])):
        assert np.abs(other - alone).max() > 1


@pytest.mark.parametrize(
    ("name", "sampler"), [("xar", FlowSamplerConfig()), ("far", TokenSamplerConfig())]
)
def test_ids_count_from_zero_and_samplers_have_defaults(
    inputs: Path, name: str, sampler: Any
) -> None:
    images = ImageGenerator.from_pretrained(inputs / name)
    expected = images.generate([2], seed=3, image_ids=[0], sampler=sampler)
    np.testing.assert_array_equal(images.generate([2], seed=3), expected)


@pytest.mark.parametrize(
    ("name", "sampler"), [("xar", FLOW_SAMPLER), ("far", TokenSamplerConfig())]
)
def test_the_networks_products_may_be_in_bf16(inputs: Path, name: str, sampler: Any) -> None:
    images = ImageGenerator.from_pretrained(inputs / name)
    dtypes = set()
    images.generator.blocks[0].mlp.register_forward_hook(
        lambda _, __, output: dtypes.add(output.dtype)
    )
    exact = images.generate(LABELS, seed=3, sampler=sampler)
    assert dtypes == {torch.float32}
    rounded = dataclasses.replace(sampler, precision="bf16_autocast")
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        found = images.generate(LABELS, seed=3, sampler=rounded)
    # A weight is rounded once and not for every product.
    shape = list(images.generator.blocks[0].mlp.down.weight.shape)
    weights = [weight for weight in images.generator.parameters() if list(weight.shape) == shape]
    roundings = sum(
        event.count
        for event in profiled.key_averages(group_by_input_shape=True)
        if event.key == "aten::to" and event.input_shapes[0] == shape
    )
    assert roundings == len(weights)
    assert not any(weight.requires_grad for weight in images.generator.parameters())
    assert dtypes == {torch.float32, torch.bfloat16}
    assert found.shape == exact.shape
    if name == "xar":  # a FAR may draw another code, and all others after it
        assert np.abs(found.astype(int) - exact).mean() < 5


def test_the_average_is_taken_unless_raw_weights_are_asked_for(inputs: Path) -> None:
    average = ImageGenerator.from_pretrained(inputs / "far")
    raw = ImageGenerator.from_pretrained(inputs / "far", use_ema=False)
    expected = load_generator(inputs / "far", use_ema=False).class_embedding.weight
    assert torch.equal(raw.generator.class_embedding.weight, expected)
    assert not torch.equal(average.generator.class_embedding.weight, expected)


def test_a_folder_holds_its_tokenizer_and_an_equal_one_may_be_given(
    inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "far", tmp_path / "far")
    assert find_tokenizer(tmp_path / "far") == tmp_path / "far" / "tokenizer"
    shutil.rmtree(tmp_path / "far" / "tokenizer")
    with pytest.raises(
        ArtefactError, match=r"tokenizer\.safetensors: no such file; .*far holds no"
    ):
        ImageGenerator.from_pretrained(tmp_path / "far")
    found = ImageGenerator.from_pretrained(
        tmp_path / "far", tokenizer_path=inputs / "tokenizer"
    ).generate([1], seed=0)
    expected = ImageGenerator.from_pretrained(inputs / "far").generate([1], seed=0)
    np.testing.assert_array_equal(found, expected)


def test_another_tokenizer_than_that_of_the_codes_is_refused(inputs: Path, tmp_path: Path) -> None:
    digests = [
        artefact.sha256_of(inputs / name / "tokenizer.safetensors")
        for name in ("tokenizer", "other_tokenizer")
    ]
    with pytest.raises(ArtefactError, match=f"{digests[0]}.*{digests[1]}.*pass the tokenizer_path"):
        ImageGenerator.from_pretrained(inputs / "xar", tokenizer_path=inputs / "other_tokenizer")
    with pytest.raises(ArtefactError, match=r"absent.*no such file.*correct tokenizer_path"):
        ImageGenerator.from_pretrained(inputs / "xar", tokenizer_path=tmp_path / "absent")


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 5], {}, r"labels\[1\] = 5: must be in \[0, 5\)"),
        ([-1], {}, r"labels\[0\] = -1: must be in \[0, 5\)"),
        ([], {}, "labels: holds none"),
        ([0, 1], {"image_ids": [0]}, "image_ids: 1 ids for 2 labels"),
        ([0], {"sampler": TokenSamplerConfig()}, r"sampler = Token.*must be a FlowSamplerConfig"),
        ([1.7], {}, r"labels\[0\] = 1\.7: must be a whole number"),
        ([0, 1.0], {}, r"labels\[1\] = 1\.0: must be a whole number"),
        ([True], {}, r"labels\[0\] = True"),
        (["1"], {}, r"labels\[0\] = '1'"),
        ("12", {}, "labels = '12': must be a sequence"),
        (3, {}, "labels = 3: must be a sequence"),
        (np.zeros((2, 2), np.int64), {}, "must be a sequence"),
        (np.array([1.0, 2.0]), {}, r"labels\[0\].* must be a whole number"),
        (torch.tensor([True]), {}, r"labels\[0\] = tensor\(True\)"),
        ([0], {"seed": 1.0}, r"seed = 1\.0: must be a whole number"),
        ([0], {"seed": "1"}, "seed = '1'"),
        ([0], {"image_ids": [1.5]}, r"image_ids\[0\] = 1\.5"),
    ],
)
def test_labels_and_samplers_that_do_not_fit_are_named(
    inputs: Path, labels: list[int], options: dict[str, Any], message: str
) -> None:
    images = ImageGenerator.from_pretrained(inputs / "xar")
    assert images.num_classes == 5
    with pytest.raises(ValueError, match=message):
        images.generate(labels, **{"seed": 0, **options})


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
def test_labels_of_any_kind_of_whole_numbers_draw_the_same(inputs: Path, kind: Any) -> None:
    images = ImageGenerator.from_pretrained(inputs / "far")
    expected = images.generate(LABELS, seed=3)
    found = images.generate(kind(LABELS), seed=np.int64(3), image_ids=np.arange(3))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("xar", FLOW_SAMPLER),
        ("xar", dataclasses.replace(FLOW_SAMPLER, snap="on")),
        ("far", TokenSamplerConfig()),
    ],
)
def test_a_diverged_generator_draws_no_picture(inputs: Path, name: str, sampler: Any) -> None:
    images = ImageGenerator.from_pretrained(inputs / name)
    images.generator.blocks[0].mlp.down.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"image 0 of 3 holds NaN.*sample in fp32"):
        images.generate(LABELS, seed=3, sampler=sampler)


def test_weights_that_are_not_finite_are_neither_written_nor_loaded(
    inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "far", tmp_path / "far")
    path = tmp_path / "far" / "generator_ema.safetensors"
    state = {name: value.clone() for name, value in load_file(path).items()}
    state["norm.weight"][3] = torch.inf
    with pytest.raises(ArtefactError, match=r"norm\.weight \(1 of 32 values\).*nothing is written"):
        save_generator(tmp_path / "other", state, None, {})
    save_file(state, path)
    with pytest.raises(ArtefactError, match=r"generator_ema.*norm\.weight \(1 of 32 values\)"):
        ImageGenerator.from_pretrained(tmp_path / "far")


def test_a_far_refuses_the_sampler_of_an_xar(inputs: Path) -> None:
    images = ImageGenerator.from_pretrained(inputs / "far")
    with pytest.raises(ValueError, match=r"sampler = Flow.*must be a TokenSamplerConfig"):
        images.generate([0], seed=0, sampler=FLOW_SAMPLER)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (
            XAR(dataclasses.replace(CELLS, channels=8)),
            r"generator\.channels = 8: the tokenizer has 6",
        ),
        (
            FAR(dataclasses.replace(TOKENS, codebooks=TOKENS.codebooks[::-1][:1], head_depth=0)),
            r"generator\.codebooks = \{'visual': 32\}: the tokenizer has",
        ),
    ],
    ids=["channels", "codebooks"],
)
def test_parts_that_do_not_fit_each_other_are_refused(generator: Any, message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        ImageGenerator(generator, GloTokTokenizer(TOKENIZER))


def counted_rows(inputs: Path, name: str, sampler: Any) -> int:
    """Rows that pass the first block, per image."""
    images = ImageGenerator.from_pretrained(inputs / name)
    rows = []
    images.generator.blocks[0].register_forward_hook(
        lambda _, arguments, __: rows.append(arguments[0].shape[0])
    )
    images.generate(LABELS, seed=0, sampler=sampler)
    assert sum(rows) % len(LABELS) == 0
    return sum(rows) // len(LABELS)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        # Four cells of five steps, three of them remembered; the first is never guided.
        (FlowSamplerConfig(num_steps=5, guidance_scale=1.0), 4 * 5 + 3),
        (FlowSamplerConfig(num_steps=5), 5 + 2 * 15 + 2 * 3),
        (FlowSamplerConfig(num_steps=5, last_num_steps=2), 5 + 2 * (4 + 3 + 2) + 2 * 3),
    ],
)
def test_xar_takes_as_many_evaluations_as_are_announced(
    inputs: Path, sampler: FlowSamplerConfig, expected: int
) -> None:
    assert network_evaluations(CELLS, sampler) == expected
    assert counted_rows(inputs, "xar", sampler) == expected


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (TokenSamplerConfig(guidance_scale=1.0), 16),
        (TokenSamplerConfig(), 32),
        (TokenSamplerConfig(guidance_interval=(0.25, 0.5)), 16 + 8),
        (TokenSamplerConfig(guidance_interval=(0.5, 0.5)), 16),
    ],
)
def test_far_takes_as_many_evaluations_as_are_announced(
    inputs: Path, sampler: TokenSamplerConfig, expected: int
) -> None:
    assert network_evaluations(TOKENS, sampler) == expected
    assert counted_rows(inputs, "far", sampler) == expected
