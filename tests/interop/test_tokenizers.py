"""Peers' checkpoints: every name of their shape lists, the same function under our names, and what is refused."""

import argparse
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glotok_ray.config import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    ContrastConfig,
    DiscriminatorConfig,
    ResidualConfig,
    TokenizerConfig,
)
from glotok_ray.interop.tokenizers import ImportedTokenizer, import_tokenizer
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from tests.small_models import NO_RESIDUAL, tiny_tokenizer

SHAPES = Path(__file__).parent / "shapes"
PATCHGAN = 2_765_633


# ------------------------------------------------------------------------------- shape lists


def config_of(
    *codebooks: CodebookConfig, depth: int = 0, levels: tuple[int, ...] = (1, 1, 2, 2, 4)
) -> TokenizerConfig:
    return TokenizerConfig(
        autoencoder=AutoencoderConfig(channel_multipliers=levels),
        adapter=AdapterConfig(depth=depth),
        codebooks=codebooks,
        residual=ResidualConfig(enabled=False),
    )


VISUAL, SEMANTIC = CodebookConfig(name="visual"), CodebookConfig(name="semantic")
WITH_HEAD = CodebookConfig(name="semantic", contrast=ContrastConfig(network="clip_vitl14"))
RAW = CodebookConfig(name="visual", width=256, lookup="euclidean")
VQ8 = (1, 2, 2, 4)
LISTS = {
    "llamagen_vq16": (config_of(VISUAL), "llamagen", 71_883_403),
    "llamagen_vq8": (config_of(VISUAL, levels=VQ8), "llamagen", 70_109_835),
    "fqgan_dual_vq16_nohead": (config_of(VISUAL, SEMANTIC, depth=6), "fqgan", 111_294_355),
    "fqgan_dual_vq16_with_featpred": (config_of(VISUAL, WITH_HEAD, depth=6), "fqgan", 150_410_131),
    "fqgan_dual_vq8_with_featpred": (
        config_of(VISUAL, WITH_HEAD, depth=6, levels=VQ8),
        "fqgan",
        150_209_427,
    ),
    "taming_vqgan_imagenet_f16_16384": (config_of(RAW), "taming", 76_073_859),
    "taming_vqgan_imagenet_f16_1024": (config_of(replace(RAW, size=1024)), "taming", 72_141_699),
}


def shapes_of(name: str) -> dict[str, list[int]]:
    return json.loads((SHAPES / f"{name}.json").read_text())["shapes"]


def listed(name: str) -> dict[str, Tensor]:
    """One stored zero per tensor: shapes alone matter."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes_of(name).items()}


def saved(folder: Path, content: Any, name: str = "peer.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def size_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(math.prod(value.shape) for value in tensors.values())


@pytest.mark.parametrize("name", LISTS)
def test_every_listed_tensor_has_its_place(name: str, tmp_path: Path) -> None:
    config, layout, total = LISTS[name]
    peers = listed(name)
    found = import_tokenizer(saved(tmp_path, {"model": peers}), config)
    with torch.device("meta"):
        expected = GloTokTokenizer(config).state_dict()
    assert {key: value.shape for key, value in found.tokenizer.items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert (found.layout, size_of(found.tokenizer)) == (layout, total)
    assert len(found.tokenizer) + len(found.discriminator) + len(found.left_out) == len(peers)
    assert all(re.search(r"\.codebook_used$|^loss\.perceptual", key) for key in found.left_out)
    assert bool(found.discriminator) == (layout == "taming")


def test_a_feature_head_is_left_out_where_the_config_has_none(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": listed("fqgan_dual_vq16_with_featpred")})
    config, _, total = LISTS["fqgan_dual_vq16_nohead"]
    found = import_tokenizer(path, config)
    assert size_of(found.tokenizer) == total
    assert sum(name.startswith("feat_pred_head.") for name in found.left_out) == 552 - 506


def test_the_discriminator_of_a_training_checkpoint_and_of_taming(tmp_path: Path) -> None:
    training = {
        "model": listed("llamagen_vq16"),
        "discriminator": listed("patchgan_nlayer3_ndf64_bn"),
    }
    lightning = {"state_dict": listed("taming_vqgan_imagenet_f16_16384"), "global_step": 7}
    for content, name in (
        (training, "llamagen_vq16"),
        (lightning, "taming_vqgan_imagenet_f16_16384"),
    ):
        found = import_tokenizer(saved(tmp_path, content), LISTS[name][0]).discriminator
        model = PatchDiscriminator(DiscriminatorConfig())
        model.load_state_dict(found)
        assert sum(p.numel() for p in model.parameters()) == PATCHGAN
    training["discriminator"]["main.0.weight"] = torch.zeros(64, 6, 4, 4)
    with pytest.raises(
        ArtefactError, match=r"its discriminator is not.*1 misshapen.*the tokenizer alone"
    ):
        import_tokenizer(saved(tmp_path, training), LISTS["llamagen_vq16"][0])


# ------------------------------------------------------------------- values, on a small trunk

# Ours to the peers', written down a second time and in the other direction.
_TO_LLAMAGEN = (
    (r"^decoder_projection", "post_quant_conv"),
    (r"^encoder\.head\.(norm|conv)", r"encoder.\1_out"),
    (r"^branches\.visual\.projection", "quant_conv"),
    (r"^branches\.visual\.quantizer\.codebook", "quantize.embedding.weight"),
)
_TRUNK = (
    (r"^(.+)coder\.levels\.(\d+)\.blocks", r"\1coder.conv_blocks.\2.res"),
    (r"^(.+)coder\.levels\.(\d+)\.attentions", r"\1coder.conv_blocks.\2.attn"),
    (r"^encoder\.levels\.(\d+)\.resample", r"encoder.conv_blocks.\1.downsample"),
    (r"^decoder\.levels\.(\d+)\.resample", r"decoder.conv_blocks.\1.upsample"),
    (r"coder\.middle", "coder.mid"),
    (r"coder\.(.+)\.query", r"coder.\1.q"),
    (r"coder\.(.+)\.key", r"coder.\1.k"),
    (r"coder\.(.+)\.value", r"coder.\1.v"),
    (r"coder\.(.+)\.projection", r"coder.\1.proj_out"),
    ("shortcut", "nin_shortcut"),
)
_TO_FQGAN = (
    (r"^decoder_projection", "post_quant_conv"),
    (r"(adapter|contrast)\.blocks", r"\1.transformer"),
    (r"(adapter|contrast)(.+)query_key_value\.", r"\1\2attn.in_proj_"),
    (r"(adapter|contrast)(.+)\.projection", r"\1\2.attn.out_proj"),
    (r"(adapter|contrast)(.+)\.attention_norm", r"\1\2.ln_1"),
    (r"(adapter|contrast)(.+)\.mlp_norm", r"\1\2.ln_2"),
    (r"(adapter|contrast)(.+)\.mlp\.0", r"\1\2.mlp.c_fc"),
    (r"(adapter|contrast)(.+)\.mlp\.2", r"\1\2.mlp.c_proj"),
    (r"(adapter|contrast)\.norm_in", r"\1.ln_pre"),
    (r"(adapter|contrast)\.norm_out", r"\1.ln_post"),
    (r"(adapter|contrast)\.positions", r"\1.positional_embedding"),
    (r"contrast\.class_token", "contrast.class_embedding"),
    (r"contrast\.expand", "contrast.upscale"),
    (r"^branches\.semantic\.contrast", "feat_pred_head"),
    (r"^branches\.semantic_(mid|high)\.contrast", r"\1_sem_feat_pred"),
    (r"^branches\.visual\.adapter", "encoder.visual_head.0"),
    (r"^branches\.semantic(_mid|_high|)\.adapter", r"encoder.semantic_head\1.0"),
    (r"^encoder\.head\.(norm|conv)", r"encoder.\1_out_vis"),
    (r"^branches\.semantic(_mid|_high|)\.head\.(norm|conv)", r"encoder.\2_out_sem\1"),
    (r"^branches\.visual\.projection", "quant_conv_vis"),
    (r"^branches\.semantic(_mid|_high|)\.projection", r"quant_conv_sem\1"),
    (r"^branches\.visual\.quantizer\.codebook", "quantize_vis.embedding.weight"),
    (r"^branches\.semantic(.*)\.quantizer\.codebook", r"quantize_sem\1.embedding.weight"),
)
_LLAMAGEN_TO_TAMING = (
    (r"^encoder\.conv_blocks", "encoder.down"),
    (r"^decoder\.conv_blocks\.0", "decoder.up.2"),
    (r"^decoder\.conv_blocks\.1", "decoder.up.x"),
    (r"^decoder\.conv_blocks\.2", "decoder.up.0"),
    (r"^decoder\.up\.x", "decoder.up.1"),
    (r"\.res\.", ".block."),
    (r"\.mid\.0", ".mid.block_1"),
    (r"\.mid\.1", ".mid.attn_1"),
    (r"\.mid\.2", ".mid.block_2"),
)


def under(table: tuple[tuple[str, str], ...], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, value in state.items():
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        named[name] = value
    assert len(named) == len(state)
    return named


def book(name: str, head: int = 0, **changes: Any) -> CodebookConfig:
    contrast = ContrastConfig(
        network="some" if head else "", width=head or 16, depth=2, num_heads=2
    )
    return CodebookConfig(name=name, size=16, width=4, contrast=contrast, **changes)


def small_config(*codebooks: CodebookConfig, depth: int = 0) -> TokenizerConfig:
    return tiny_tokenizer(
        *codebooks, channel_multipliers=(1, 1, 2), adapter_depth=depth, residual=NO_RESIDUAL
    )


ONE = small_config(book("visual"))
DUAL = small_config(book("visual"), book("semantic", head=16), depth=2)
TRIPLE = small_config(
    book("visual"), book("semantic_mid", head=8), book("semantic_high", head=24), depth=1
)


def random_model(config: TokenizerConfig) -> GloTokTokenizer:
    """All parameters random, norms and biases too, so that no two may change places unseen."""
    torch.manual_seed(0)
    model = GloTokTokenizer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def loaded(found: ImportedTokenizer, config: TokenizerConfig) -> GloTokTokenizer:
    torch.manual_seed(1)
    model = GloTokTokenizer(config)
    model.load_state_dict(found.tokenizer)
    return model


def assert_same_function(one: GloTokTokenizer, other: GloTokTokenizer) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    first, second = one.train()(images), other.train()(images)
    assert torch.equal(first.reconstruction, second.reconstruction)
    for name, branch in first.branches.items():
        assert torch.equal(branch.latent, second.branches[name].latent)
        assert torch.equal(branch.indices, second.branches[name].indices)
        if branch.prediction is not None:
            assert torch.equal(branch.prediction, second.branches[name].prediction)


def llamagen_state(model: GloTokTokenizer) -> dict[str, Tensor]:
    return under((*_TRUNK, *_TO_LLAMAGEN), model.state_dict())


@pytest.mark.parametrize("wrapper", ["", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_llamagen_names_load_as_the_same_function(wrapper: str, tmp_path: Path) -> None:
    source = random_model(ONE)
    peers = {wrapper + name: value for name, value in llamagen_state(source).items()}
    found = import_tokenizer(saved(tmp_path, peers), ONE)
    assert found.sha256 == artefact.sha256_of(tmp_path / "peer.pt")
    assert (found.layout, found.left_out, found.discriminator) == ("llamagen", (), {})
    assert_same_function(source, loaded(found, ONE))


def test_taming_names_of_the_same_tensors_load_as_the_same_function(tmp_path: Path) -> None:
    config = small_config(book("visual", lookup="euclidean"))
    source = random_model(config)
    peers = under(_LLAMAGEN_TO_TAMING, llamagen_state(source))
    assert {"decoder.up.2.attn.0.q.weight", "encoder.mid.attn_1.k.bias"} <= peers.keys()
    save_file(peers, str(tmp_path / "taming.safetensors"))
    found = import_tokenizer(tmp_path / "taming.safetensors", config)
    assert found.layout == "taming"
    assert_same_function(source, loaded(found, config))


@pytest.mark.parametrize(
    ("config", "layout", "a_name"),
    [
        (DUAL, "fqgan", "feat_pred_head.transformer.1.attn.in_proj_weight"),
        (TRIPLE, "fqgan_triple", "high_sem_feat_pred.upscale.2.bias"),
    ],
)
def test_fqgan_names_load_as_the_same_function(
    config: TokenizerConfig, layout: str, a_name: str, tmp_path: Path
) -> None:
    source = random_model(config)
    peers = under((*_TO_FQGAN, *_TRUNK), source.state_dict())
    assert a_name in peers
    found = import_tokenizer(saved(tmp_path, {"model": peers}), config)
    assert found.layout == layout
    assert_same_function(source, loaded(found, config))


def test_the_second_spelling_of_the_names_is_the_peers(tmp_path: Path) -> None:
    for name, table in (
        ("llamagen_vq16", (*_TRUNK, *_TO_LLAMAGEN)),
        ("fqgan_dual_vq16_with_featpred", (*_TO_FQGAN, *_TRUNK)),
    ):
        with torch.device("meta"):
            ours = GloTokTokenizer(LISTS[name][0]).state_dict()
        kept = {key for key in shapes_of(name) if not key.endswith("codebook_used")}
        assert under(table, ours).keys() == kept


def test_branches_in_another_order_are_refused(tmp_path: Path) -> None:
    same = (book("visual"), book("semantic_mid", head=8), book("semantic_high", head=8))
    peers = under((*_TO_FQGAN, *_TRUNK), random_model(small_config(*same, depth=1)).state_dict())
    swapped = small_config(same[0], same[2], same[1], depth=1)
    with pytest.raises(
        ArtefactError, match="visual, semantic_high, semantic_mid for visual, semantic_mid"
    ):
        import_tokenizer(saved(tmp_path, peers), swapped)


def test_an_adapter_is_torchs_own_attention() -> None:
    """The packed query, key and value of MultiheadAttention mean the same in our block."""
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    model = random_model(DUAL)
    block: Any = model.branches["visual"].adapter.blocks[0]  # type: ignore[union-attr, index]
    peers = {f"in_proj_{part}": getattr(block.query_key_value, part) for part in ("weight", "bias")}
    peers |= {f"out_proj.{part}": getattr(block.projection, part) for part in ("weight", "bias")}
    attention.load_state_dict(peers)
    tokens = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3))
    normed = block.attention_norm(tokens)
    middle = tokens + attention(normed, normed, normed, need_weights=False)[0]
    torch.testing.assert_close(block(tokens), middle + block.mlp(block.mlp_norm(middle)))


# --------------------------------------------------------------------- files and what is refused


def test_raw_weights_or_their_average(tmp_path: Path) -> None:
    state = llamagen_state(random_model(ONE))
    average = {name: value.half() for name, value in state.items()}
    content = {"steps": 7, "args": argparse.Namespace(lr=1e-4), "optimizer": {"state": {0: 1}}}
    path = saved(tmp_path, content | {"ema": average, "model": state})
    bias = "decoder.conv_out.bias"
    raw, mean = import_tokenizer(path, ONE), import_tokenizer(path, ONE, weights="ema")
    assert torch.equal(raw.tokenizer[bias], state[bias])
    assert torch.equal(mean.tokenizer[bias], average[bias].float())
    only = import_tokenizer(saved(tmp_path, content | {"ema": average}), ONE)
    assert torch.equal(only.tokenizer[bias], average[bias].float())
    with pytest.raises(
        ArtefactError, match=r'no ema or model_ema entry \(there is steps, args.*"model"'
    ):
        import_tokenizer(saved(tmp_path, content | {"model": state}), ONE, weights="ema")


def test_all_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    state = llamagen_state(random_model(ONE))
    del state["quant_conv.bias"]
    state["encoder.novelty.weight"] = torch.zeros(3)
    state["encoder.conv_blocks.7.attn.0.q.bias"] = torch.zeros(3)
    # Its renamed twin is there already, so it must not take that one's place in silence.
    state["decoder_projection.bias"] = torch.zeros(8)
    state["quantize.embedding.weight"] = torch.zeros(32, 4)
    with pytest.raises(ArtefactError) as caught:
        import_tokenizer(saved(tmp_path, state), ONE)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'peer.pt'}: its llamagen names")
    for part in (
        "codebooks visual 16 x 4; base_channels 8 x (1, 1, 2)",
        "1 missing (branches.visual.projection.bias)",
        "3 extra (",
        "decoder_projection.bias from decoder_projection.bias",
        "encoder.levels.7.attentions.0.query.bias",
        "encoder.novelty.weight",
        "1 misshapen (branches.visual.quantizer.codebook (32, 4) for (16, 4))",
        "choose the recipe that fits: llamagen_vq16",
    ):
        assert part in text


def test_a_config_of_another_family_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, llamagen_state(random_model(ONE)))
    with pytest.raises(ArtefactError, match=r"order visual, semantic for visual; \d+ missing"):
        import_tokenizer(path, DUAL)
    with pytest.raises(ArtefactError, match=r"missing \(branches\.visual\.residual"):
        import_tokenizer(path, replace(ONE, residual=ResidualConfig(width=8, num_heads=2)))


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, ("harm.txt", "w"))


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = random_model(ONE)
    callbacks = {Harmful: {"best": Harmful(), "list": [argparse.Namespace(lr=1.0)]}}
    path = saved(tmp_path, {"model": llamagen_state(model), "callbacks": callbacks})
    found = import_tokenizer(path, ONE).tokenizer
    assert not (tmp_path / "harm.txt").exists()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value)


def test_files_that_are_no_tokenizer_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"absent\.pt: no such checkpoint"):
        import_tokenizer(tmp_path / "absent.pt", ONE)
    for name in ("broken.safetensors", "broken.ckpt"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(ArtefactError, match=f"{name}: not readable as a tokenizer checkpoint"):
            import_tokenizer(tmp_path / name, ONE)
    with pytest.raises(ArtefactError, match="holds a Tensor"):
        import_tokenizer(saved(tmp_path, torch.ones(3)), ONE)
    ours = random_model(ONE).state_dict()
    with pytest.raises(
        ArtefactError, match=r"no known layout \(encoder\.conv_in\.weight.*, \.\.\.\)"
    ):
        import_tokenizer(saved(tmp_path, ours), ONE)
    with pytest.raises(ArtefactError, match=r"0 names are of no known layout \(nothing\)"):
        import_tokenizer(saved(tmp_path, {}), ONE)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_file_with_numbers_that_are_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    peers = llamagen_state(random_model(ONE))
    name = "quantize.embedding.weight"
    peers[name] = peers[name].clone()
    peers[name][2, 1] = value
    # A counter that is left out may hold anything.
    peers["quantize.codebook_used"] = torch.full((9,), value)
    message = r"peer\.pt: 1 of its .*quantize\.embedding\.weight \(1 of .*fetch the file again"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        path = saved(tmp_path, {key: tensor.to(dtype) for key, tensor in peers.items()})
        with pytest.raises(ArtefactError, match=message):
            import_tokenizer(path, ONE)


def test_a_discriminator_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    state = listed("patchgan_nlayer3_ndf64_bn")
    state["main.0.bias"] = torch.full((64,), math.nan)
    path = saved(tmp_path, {"model": llamagen_state(random_model(ONE)), "discriminator": state})
    with pytest.raises(ArtefactError, match=r"main\.0\.bias \(64 of 64 values\)"):
        import_tokenizer(path, ONE)


def test_a_path_in_words_is_taken_and_other_arguments_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, llamagen_state(random_model(ONE)))
    assert import_tokenizer(str(path), ONE).layout == "llamagen"
    wrong: Any = "average"
    with pytest.raises(ValueError, match="weights = 'average'"):
        import_tokenizer(path, ONE, weights=wrong)
    wrong = {"codebooks": 1}
    with pytest.raises(ValueError, match="must be a TokenizerConfig"):
        import_tokenizer(path, wrong)
