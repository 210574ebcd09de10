"""Checkpoints of LlamaGen's larger GPTs, IBQ, taming-transformers and VQGAN-LC: names, and what they compute."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._tensor import _rebuild_from_type_v2

from glotok_ray.config import ExportGeneratorRun, FARConfig, VocabularyConfig
from glotok_ray.config.causal import CausalVariantConfig
from glotok_ray.export import generator as export
from glotok_ray.interop import generator_layouts
from glotok_ray.interop.generators import export_generator, import_generator, layout_of
from glotok_ray.nn.far import FAR
from glotok_ray.recipes import peer_generators as recipes
from glotok_ray.storage.artefact import ArtefactError

SHAPES = Path(__file__).parent / "shapes"
LISTED = {
    "llamagen_gpt_xl_c2i": (recipes.gpt_xl, 774_699_520),
    "llamagen_gpt_xxl_c2i": (recipes.gpt_xxl, 1_410_972_672),
    "llamagen_gpt_3b_c2i": (recipes.gpt_3b, 3_096_659_200),
    "ibq_ar_b": (recipes.ibq_b, 342_994_944),
    "ibq_ar_xxl": (recipes.ibq_xxl, 2_063_331_840),
    "taming_cin_transformer_gpt_1p4b": (recipes.taming_gpt, 1_410_640_896),
    "vqganlc_gpt_small_100k": (recipes.vqgan_lc_gpt, 509_422_592),
}


def listed(name: str) -> dict[str, Any]:
    return json.loads((SHAPES / f"{name}.json").read_text())


def on_meta(config: FARConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return FAR(config).state_dict()


@pytest.mark.parametrize("name", LISTED)
def test_totals_and_names_are_the_listed_ones_both_ways(name: str) -> None:
    recipe, total = LISTED[name]
    model, theirs = recipe().model, listed(name)
    state = on_meta(model)
    assert sum(value.numel() for value in state.values()) == total == theirs["total_params"]
    peers = export_generator(state, model)
    assert {key: list(value.shape) for key, value in peers.items()} == theirs["shapes"]
    layout = layout_of(model)
    assert generator_layouts.detect(theirs["shapes"]) == layout
    found = {generator_layouts.our_name(key, layout, model.depth // 2) for key in theirs["shapes"]}
    assert found - {None} == state.keys()
    left_out = [
        key
        for key in theirs["shapes"]
        if generator_layouts.our_name(key, layout, model.depth // 2) is None
    ]
    assert sorted(left_out) == sorted(theirs["buffers_in_state_dict"])


@pytest.mark.parametrize(
    ("recipe", "total"), [(recipes.ibq_l, 649_640_960), (recipes.ibq_xl, 1_076_103_168)]
)
def test_totals_without_a_list(recipe: Callable[[], Any], total: int) -> None:
    assert sum(value.numel() for value in on_meta(recipe().model).values()) == total


# ------------------------------------------------------------------ the peers' functions, on their names


WIDTH, HEADS, DEPTH, SIDE, SIZE, CLASSES = 24, 2, 2, 3, 12, 5


def small(block: str, **variant: Any) -> FARConfig:
    return FARConfig(
        grid_size=SIDE,
        codebooks=(VocabularyConfig(name="visual", size=SIZE),),
        width=WIDTH,
        depth=DEPTH,
        head_depth=0,
        num_heads=HEADS,
        mlp_multiple=8,
        num_classes=CLASSES,
        variant=CausalVariantConfig(block=block, **variant),  # type: ignore[arg-type]
    )


IBQ = small("ibq")
TAMING = small("gpt", class_input="among_codes")
VQGAN_LC = small("gpt", class_input="after_codes", unread_positions=1)


def peers_of(config: FARConfig) -> dict[str, Tensor]:
    """Random numbers under the peer's names, which the listed shapes' tests have checked."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        name: value.shape for name, value in export_generator(on_meta(config), config).items()
    }
    return {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def linear(peers: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    return F.linear(inputs, peers[f"{name}.weight"], peers.get(f"{name}.bias"))


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Masked softmax attention of (b, n, heads, width)."""
    logits = torch.einsum("bnhw,bmhw->bhnm", query, key) / math.sqrt(query.shape[-1])
    hidden = torch.full(logits.shape[-2:], -math.inf).triu(1)
    return torch.einsum("bhnm,bmhw->bnhw", (logits + hidden).softmax(-1), value).flatten(2)


def taming_logits(peers: Mapping[str, Tensor], codes: Tensor, first: Tensor) -> Tensor:
    """minGPT of codes (b, n) behind the row `first` of the same table."""
    sequence = torch.cat([first[:, None], codes[:, :-1]], dim=1)
    tokens = peers["tok_emb.weight"][sequence] + peers["pos_emb"][:, : sequence.shape[1]]
    for block in (f"blocks.{index}" for index in range(DEPTH)):
        norms = [(peers[f"{block}.{ln}.weight"], peers[f"{block}.{ln}.bias"]) for ln in LAYERS]
        inner = F.layer_norm(tokens, (WIDTH,), *norms[0])
        query, key, value = (
            linear(peers, f"{block}.attn.{part}", inner).unflatten(-1, (HEADS, -1))
            for part in ("query", "key", "value")
        )
        tokens = tokens + linear(peers, f"{block}.attn.proj", attended(query, key, value))
        inner = F.layer_norm(tokens, (WIDTH,), *norms[1])
        hidden = linear(peers, f"{block}.mlp.0", inner)
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(peers, f"{block}.mlp.2", hidden)
    tokens = F.layer_norm(tokens, (WIDTH,), peers["ln_f.weight"], peers["ln_f.bias"])
    return linear(peers, "head", tokens)


LAYERS = ("ln1", "ln2")


def rms(inputs: Tensor, weight: Tensor) -> Tensor:
    return inputs * (inputs.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight


def turned(heads: Tensor) -> Tensor:
    """Rotary positions of the grid behind a class whose angles have cosine and sine 0."""
    half = heads.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(0, half, 2).float() / half)
    places = [(p // SIDE, p % SIDE) for p in range(heads.shape[1] - 1)]
    angles = torch.stack([torch.cat([r * frequencies, c * frequencies]) for r, c in places])
    factors = torch.polar(torch.ones_like(angles), angles)
    factors = torch.cat([torch.zeros(1, factors.shape[1]), factors])[:, None]
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * factors).flatten(-2)


def ibq_logits(peers: Mapping[str, Tensor], codes: Tensor, labels: Tensor) -> Tensor:
    """LlamaGen's block under VAR's modulation: gates, scales, shifts, each of attention and of the MLP."""
    condition = peers["class_emb.embedding_table.weight"][labels].unsqueeze(1)
    tokens = torch.cat([condition, peers["tok_emb.weight"][codes[:, :-1]]], dim=1)
    active = condition * condition.sigmoid()
    for block in (f"blocks.{index}" for index in range(DEPTH)):
        parts = linear(peers, f"{block}.ada_lin.1", active).chunk(6, dim=-1)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts
        inner = rms(tokens, peers[f"{block}.attention_norm.weight"]) * (1 + scale1) + shift1
        heads = linear(peers, f"{block}.attention.wqkv", inner).unflatten(-1, (3, HEADS, -1))
        query, key, value = heads.unbind(2)
        mixed = attended(turned(query), turned(key), value)
        tokens = tokens + gate1 * linear(peers, f"{block}.attention.wo", mixed)
        inner = rms(tokens, peers[f"{block}.ffn_norm.weight"]) * (1 + scale2) + shift2
        gate = F.silu(linear(peers, f"{block}.feed_forward.w1", inner))
        hidden = gate * linear(peers, f"{block}.feed_forward.w3", inner)
        tokens = tokens + gate2 * linear(peers, f"{block}.feed_forward.w2", hidden)
    scale, shift = linear(peers, "head_nm.ada_lin.1", active).chunk(2, dim=-1)
    normed = rms(tokens, peers["head_nm.rmsnorm.weight"]) * (1 + scale) + shift
    return linear(peers, "head", normed)


def expected_logits(
    config: FARConfig, peers: Mapping[str, Tensor], codes: Tensor, labels: Tensor
) -> Tensor:
    if config.variant.block == "ibq":
        return ibq_logits(peers, codes, labels)
    behind = config.variant.class_input == "after_codes"
    return taming_logits(peers, codes, labels + SIZE * behind)


def in_checkpoint(config: FARConfig, peers: Mapping[str, Tensor]) -> dict[str, Any]:
    """As the peers save it: prefixed, with the tokenizer, and what samplers leave behind."""
    named = {f"transformer.{name}": value for name, value in peers.items()}
    if config is VQGAN_LC:
        others = {"vqgan.quantize.embedding.weight": torch.full((2, 2), torch.nan)}
        return {"module": {f"module.{name}": value for name, value in (named | others).items()}}
    others = {
        "first_stage_model.decoder.bias": torch.full((2,), torch.nan),
        "transformer.blocks.0.attention.kv_cache.k_cache": torch.zeros(3),
    }
    return {"state_dict": named | others}


@pytest.mark.parametrize("config", [IBQ, TAMING, VQGAN_LC], ids=["ibq", "taming", "vqgan_lc"])
def test_a_checkpoint_loads_as_the_peers_function_and_is_exported_again(
    config: FARConfig, tmp_path: Path
) -> None:
    peers = peers_of(config)
    torch.save(in_checkpoint(config, peers), tmp_path / "peer.ckpt")
    found = import_generator(tmp_path / "peer.ckpt", config)
    model = FAR(config).eval()
    model.load_state_dict(found.tensors)
    codes, labels = torch.randint(SIZE, (3, 9)), torch.tensor([0, 3, 4])
    expected = expected_logits(config, peers, codes, labels)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(codes.unsqueeze(1), labels)[0], expected, atol=1e-4, rtol=1e-4)
    exported = export_generator(found.tensors, config)
    assert exported.keys() == peers.keys()
    for name, value in peers.items():
        if not name.endswith("attn.mask"):
            assert torch.equal(exported[name], value)


def test_taming_masks_of_an_export_are_its_codes_own() -> None:
    exported = export_generator(FAR(VQGAN_LC).state_dict(), VQGAN_LC)
    assert torch.equal(exported["blocks.1.attn.mask"], torch.ones(10, 10).tril()[None, None])


def test_a_class_and_the_code_of_its_number_share_a_row() -> None:
    model = FAR(TAMING).eval()
    codes = torch.randint(SIZE, (1, 1, 9))
    before = model(codes, torch.tensor([3]))[0]
    with torch.no_grad():
        model.embeddings[0].get_parameter("weight")[3] += torch.randn(WIDTH)
    assert not torch.allclose(model(codes, torch.tensor([3]))[0][:, 0], before[:, 0])


class FromType:
    """As torch pickles a tensor with attributes, which FSDP's consolidated files hold."""

    def __init__(self, value: Tensor) -> None:
        self._value = value

    def __reduce__(self) -> Any:
        function, arguments = self._value.__reduce_ex__(2)[:2]
        return _rebuild_from_type_v2, (function, torch.Tensor, arguments, {"_is_sharded": False})


def test_a_bare_file_of_typed_tensors_loads(tmp_path: Path) -> None:
    config = dataclasses.replace(small("llama"), width=200)  # heads of 100, as in 3B
    peers = {name: value.contiguous() for name, value in peers_of(config).items()}
    torch.save({name: FromType(value) for name, value in peers.items()}, tmp_path / "peer.pt")
    found = import_generator(tmp_path / "peer.pt", config)
    assert found.layout == "llamagen_gpt"
    assert torch.equal(found.tensors["norm.weight"], peers["norm.weight"])


def test_what_no_peer_computes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'class_input = \'own_table\'.*set it to "among_codes"'):
        layout_of(small("gpt"))
    books = tuple(VocabularyConfig(name=name, size=SIZE) for name in ("visual", "semantic"))
    double = dataclasses.replace(IBQ, codebooks=books, head_depth=1)
    with pytest.raises(ValueError, match="IBQ's code knows a single codebook"):
        layout_of(double)
    torch.save(in_checkpoint(IBQ, peers_of(IBQ)), tmp_path / "peer.ckpt")
    with pytest.raises(ArtefactError, match=r"layout ibq_ar, but the config.* taming_gpt \("):
        import_generator(tmp_path / "peer.ckpt", TAMING)


@pytest.mark.parametrize(
    ("config", "words"),
    [(IBQ, "Apache-2.0"), (TAMING, "MIT"), (VQGAN_LC, "states none"), (small("llama"), "MIT")],
    ids=["ibq", "taming", "vqgan_lc", "llamagen"],
)
def test_the_card_of_an_import_tells_the_weights_licence(
    config: FARConfig, words: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": peers_of(config)}, tmp_path / "peer.ckpt")
    manifest = export.run(
        ExportGeneratorRun(
            source_path=str(tmp_path / "peer.ckpt"),
            output_path=str(tmp_path / "out"),
            weights="model",
            layout="peer",
            architecture="far",
            far=config,
        )
    )
    card = (tmp_path / "out/README.md").read_text()
    assert re.search(rf"Licence of the weights: .*{words}", card)
    assert f"{manifest['parameters']:,} parameters" in card
    assert "generator_peer.safetensors" in manifest["files"]
