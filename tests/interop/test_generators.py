"""Peers' generator checkpoints: every name, the peers' functions on the peers' names, export, and what is refused."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from glotok_ray.config import FARConfig, VocabularyConfig, XARConfig
from glotok_ray.interop.generators import (
    XAR_LATENT_SCALE,
    export_generator,
    import_generator,
    layout_of,
)
from glotok_ray.nn.far import FAR
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.generator import build_generator
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError

SHAPES = Path(__file__).parent / "shapes"


def saved(folder: Path, content: Any, name: str = "peer.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def size_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(math.prod(value.shape) for value in tensors.values())


def zeros_of(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """One stored zero per tensor: shapes alone matter."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def books(*sizes: tuple[str, int]) -> tuple[VocabularyConfig, ...]:
    return tuple(VocabularyConfig(name=name, size=size) for name, size in sizes)


def on_meta(config: XARConfig | FARConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = XAR(config) if isinstance(config, XARConfig) else FAR(config)
    return model.state_dict()


# ----------------------------------------------------------------------------- names at full size


LISTED = {
    "far_b_16384x2": (FARConfig(), "far", 417_104_896),
    "far_l_16384x2": (
        FARConfig(width=1280, depth=36, head_depth=4, num_heads=20),
        "far",
        901_195_520,
    ),
    "llamagen_gpt_b_c2i": (
        FARConfig(
            codebooks=books(("visual", 16384)), width=768, depth=12, head_depth=0, num_heads=12
        ),
        "llamagen_gpt",
        110_888_448,
    ),
    "llamagen_gpt_l_c2i": (
        FARConfig(codebooks=books(("visual", 16384)), head_depth=0),
        "llamagen_gpt",
        342_910_976,
    ),
}


def listed(name: str) -> dict[str, list[int]]:
    return json.loads((SHAPES / f"{name}.json").read_text())["shapes"]


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_tensor_of_far_and_gpt_has_its_place(name: str, tmp_path: Path) -> None:
    config, layout, total = LISTED[name]
    found = import_generator(saved(tmp_path, {"model": zeros_of(listed(name))}), config)
    assert {key: value.shape for key, value in found.tensors.items()} == {
        key: value.shape for key, value in on_meta(config).items()
    }
    assert (found.layout, found.left_out, size_of(found.tensors)) == (layout, (), total)


@pytest.mark.parametrize("name", LISTED)
def test_an_export_of_far_and_gpt_has_the_listed_names_and_shapes(name: str) -> None:
    config = LISTED[name][0]
    peers = export_generator(on_meta(config), config)
    assert {key: list(value.shape) for key, value in peers.items()} == listed(name)


def xar_shapes(
    width: int, depth: int, heads: int, *, side: int = 16, channels: int = 16, classes: int = 1000
) -> dict[str, list[int]]:
    """Names and shapes of xAR's state dict, buffers included, written down from its released code."""
    tokens, hidden, head = side**2, int(width * 4.0 * 2 / 3.0), width // heads
    shapes = {
        "encoder_pos_embed_learned": [1, tokens, width],
        "decoder_pos_embed_learned": [1, tokens, width],
        "mask": [1, 1, tokens, tokens],
        "class_emb.weight": [classes + 1, width],
        **{f"{norm}.weight": [width] for norm in ("z_proj_ln", "encoder_norm", "decoder_norm")},
    }
    linears = {
        "time_embed.mlp.0": (width, 256),
        "time_embed.mlp.2": (width, width),
        "z_proj": (width, channels),
        "decoder_embed": (width, width),
        "pred": (channels, width),
    }
    for block in (f"{half}_blocks.{i}" for half in ("encoder", "decoder") for i in range(depth)):
        linears |= {
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1_g": (hidden, width),
            f"{block}.mlp.fc1_x": (hidden, width),
            f"{block}.mlp.fc2": (width, hidden),
            f"{block}.ada_lin.1": (6 * width, width),
        }
        shapes[f"{block}.attn.rope.freqs"] = [head // 4]
        shapes[f"{block}.attn.rope.freqs_cos"] = [tokens, head]
        shapes[f"{block}.attn.rope.freqs_sin"] = [tokens, head]
    for name, (rows, columns) in linears.items():
        shapes |= {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}
    return shapes


def cell_mask(side: int) -> Tensor:
    """0 where a token of the four cells, one after another, sees another one, and -inf elsewhere."""
    cell = torch.arange(side**2) // (side**2 // 4)
    mask = torch.zeros(side**2, side**2)
    mask[cell[:, None] < cell[None, :]] = -math.inf
    return mask[None, None]


XAR_SIZES = {
    "b": (768, 8, 12, 172_638_224),
    "l": (1024, 16, 16, 608_397_968),
    "h": (1280, 20, 16, 1_186_024_096),
}


@pytest.mark.parametrize("size", XAR_SIZES)
def test_every_tensor_of_xar_has_its_place(size: str, tmp_path: Path) -> None:
    width, half, heads, total = XAR_SIZES[size]
    config = XARConfig(width=width, depth=2 * half, num_heads=heads)
    peers = zeros_of(xar_shapes(width, half, heads)) | {"mask": cell_mask(16)}
    angles = xar_angles(16, width // heads)
    for name in peers:
        if ".rope." in name:
            peers[name] = angles[name.rpartition(".")[2]]
    found = import_generator(saved(tmp_path, peers), config)
    assert {key: value.shape for key, value in found.tensors.items()} == {
        key: value.shape for key, value in on_meta(config).items()
    }
    scale = found.tensors.pop("latent_scale")
    assert torch.equal(scale, torch.full((16,), 0.2325))
    assert (found.layout, size_of(found.tensors)) == ("xar", total)
    assert set(found.left_out) == {key for key in peers if key == "mask" or ".rope." in key}
    exported = export_generator(on_meta(config), config)
    assert {key: list(value.shape) for key, value in exported.items()} == xar_shapes(
        width, half, heads
    )


# --------------------------------------------------------- xAR's function, on xAR's names


SMALL_XAR = XARConfig(
    grid_size=4, cell_size=2, channels=6, width=32, depth=4, num_heads=2, num_classes=5
)


def random_tensors(shapes: Mapping[str, list[int]], scale: float = 0.15) -> dict[str, Tensor]:
    """All random, norms and biases too, so that no two may change places unseen."""
    draw = torch.Generator().manual_seed(0)
    return {name: scale * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def xar_angles(side: int, head: int) -> dict[str, Tensor]:
    """Rotary angles: first rows, then columns, each for two neighbouring channels, cell after cell."""
    half = head // 2
    freqs = 1.0 / 10000.0 ** (torch.arange(0, half, 2).float() / half)
    table = torch.empty(side**2, head)
    cell, token = side // 2, 0
    for top, left in ((0, 0), (0, cell), (cell, 0), (cell, cell)):
        for row, column in ((top + i, left + j) for i in range(cell) for j in range(cell)):
            for pair, freq in enumerate(freqs):
                table[token, 2 * pair : 2 * pair + 2] = row * freq
                table[token, half + 2 * pair : half + 2 * pair + 2] = column * freq
            token += 1
    return {"freqs": freqs, "freqs_cos": table.cos(), "freqs_sin": table.sin()}


def xar_peers() -> dict[str, Tensor]:
    config = SMALL_XAR
    shapes = xar_shapes(32, 2, 2, side=4, channels=config.channels, classes=config.num_classes)
    peers = random_tensors(shapes) | {"mask": cell_mask(4)}
    angles = xar_angles(4, 16)
    return peers | {key: angles[key.split(".")[-1]] for key in peers if ".rope." in key}


def linear(peers: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    return F.linear(inputs, peers[f"{name}.weight"], peers.get(f"{name}.bias"))


def rms(inputs: Tensor, epsilon: float) -> Tensor:
    return inputs * (inputs.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()


def turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return heads * cosine + torch.stack([-odd, even], dim=-1).flatten(-2) * sine


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Full softmax attention of (b, n, heads, width), heads joined; `mask` is added to the logits."""
    logits = torch.einsum("bnhw,bmhw->bhnm", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bhnm,bmhw->bnhw", (logits + mask).softmax(-1), value).flatten(2)


def xar_block(peers: Mapping[str, Tensor], tokens: Tensor, condition: Tensor) -> Tensor:
    """`peers` are those of one block and the mask; `condition` has a row per cell."""
    modulation = linear(peers, "ada_lin.1", F.silu(condition)).repeat_interleave(4, dim=1)
    gate1, gate2, scale1, scale2, shift1, shift2 = modulation.chunk(6, dim=-1)
    inner = linear(peers, "attn.qkv", rms(tokens, 1e-6) * (1 + scale1) + shift1)
    query, key, value = inner.unflatten(-1, (3, 2, 16)).unbind(2)
    angles = [peers[f"attn.rope.freqs_{part}"][:, None] for part in ("cos", "sin")]
    mixed = attended(turned(query, *angles), turned(key, *angles), value, peers["mask"])
    tokens = tokens + gate1 * linear(peers, "attn.proj", mixed)
    inner = rms(tokens, 1e-6) * (1 + scale2) + shift2
    hidden = F.gelu(linear(peers, "mlp.fc1_g", inner)) * linear(peers, "mlp.fc1_x", inner)
    return tokens + gate2 * linear(peers, "mlp.fc2", hidden)


def xar_velocity(
    peers: Mapping[str, Tensor], noisy: Tensor, times: Tensor, labels: Tensor
) -> Tensor:
    """What xAR's released code computes of (b, n, c) in evaluation mode, all cells at once."""
    freqs = torch.exp(-math.log(10000) * torch.arange(128).float() / 128)
    angles = (times * 1000).long().unsqueeze(-1).float() * freqs
    features = torch.cat([angles.cos(), angles.sin()], dim=-1)
    hidden = F.silu(linear(peers, "time_embed.mlp.0", features))
    condition = peers["class_emb.weight"][labels].unsqueeze(1)
    condition = condition + linear(peers, "time_embed.mlp.2", hidden)
    tokens = linear(peers, "z_proj", noisy) + peers["encoder_pos_embed_learned"]
    tokens = rms(tokens, 1e-6) * peers["z_proj_ln.weight"]
    for half in ("encoder", "decoder"):
        if half == "decoder":
            tokens = linear(peers, "decoder_embed", tokens) + peers["decoder_pos_embed_learned"]
        for index in range(2):
            start = f"{half}_blocks.{index}."
            part = {key.removeprefix(start): peers[key] for key in peers if key.startswith(start)}
            tokens = xar_block(part | {"mask": peers["mask"]}, tokens, condition)
        tokens = rms(tokens, 1e-6) * peers[f"{half}_norm.weight"]
    return linear(peers, "pred", tokens)


def test_xar_names_load_as_the_function_of_its_released_code(tmp_path: Path) -> None:
    peers = xar_peers()
    model = XAR(SMALL_XAR).eval()
    model.load_state_dict(import_generator(saved(tmp_path, peers), SMALL_XAR).tensors)
    draw = torch.Generator().manual_seed(1)
    latents, times = torch.randn(3, 6, 4, 4, generator=draw), torch.rand(3, 4, generator=draw)
    labels = torch.tensor([0, 3, 5])
    cells = [latents[:, :, i : i + 2, j : j + 2].flatten(2) for i in (0, 2) for j in (0, 2)]
    noisy = torch.cat(cells, dim=2).transpose(1, 2)
    expected = xar_velocity(peers, noisy, times, labels)
    assert expected.std() > 0.01
    found = model(model.to_entities(latents), times, labels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_export_of_xar_is_the_file_that_was_imported(tmp_path: Path) -> None:
    peers = xar_peers()
    exported = export_generator(
        import_generator(saved(tmp_path, peers), SMALL_XAR).tensors, SMALL_XAR
    )
    assert exported.keys() == peers.keys()
    for name, value in exported.items():
        if ".rope." in name:
            torch.testing.assert_close(value, peers[name])
        else:
            assert torch.equal(value, peers[name])
    # Buffers that share memory could not be saved as safetensors.
    save_file(exported, str(tmp_path / "exported.safetensors"))


# ------------------------------------------------- FAR's and GPT's function, on their names


def small_far(*sizes: tuple[str, int]) -> FARConfig:
    return FARConfig(
        grid_size=3,
        codebooks=books(*sizes),
        width=32,
        depth=2,
        head_depth=2 if len(sizes) > 1 else 0,
        num_heads=2,
        mlp_multiple=8,
        num_classes=5,
    )


SMALL_FAR = small_far(("visual", 12), ("semantic", 7))
TRIPLE_FAR = small_far(("visual", 12), ("semantic_mid", 7), ("semantic_high", 5))
SMALL_GPT = small_far(("visual", 12))


def far_peers(config: FARConfig) -> dict[str, Tensor]:
    """A random checkpoint with the names of the shape lists, and of a third codebook where there is one."""
    width, hidden = config.width, config.mlp_hidden
    shapes = {"cls_embedding.embedding_table.weight": [6, width], "norm.weight": [width]}
    stacks = {"layers": config.depth, "ar_head": config.head_depth}
    for block in (f"{stack}.{i}" for stack, depth in stacks.items() for i in range(depth)):
        shapes |= {
            f"{block}.attention.wqkv.weight": [3 * width, width],
            f"{block}.attention.wo.weight": [width, width],
            f"{block}.feed_forward.w1.weight": [hidden, width],
            f"{block}.feed_forward.w3.weight": [hidden, width],
            f"{block}.feed_forward.w2.weight": [width, hidden],
            f"{block}.attention_norm.weight": [width],
            f"{block}.ffn_norm.weight": [width],
        }
    count = len(config.codebooks)
    for number, book in enumerate(config.codebooks, start=1):
        suffix = f"_{number}" if count > 1 else ""
        shapes[f"tok_embeddings{suffix}.weight"] = [book.size, width]
        shapes[f"output{suffix}.weight"] = [book.size, width]
    if count > 1:
        shapes["aggregation_layer.weight"] = [width, count * width]
        shapes["aggregation_layer.bias"] = [width]
    return random_tensors(shapes)


def llama_table(side: int, head: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the class, all zero, and of the grid: rows in one half, columns in the other."""
    half = head // 2
    freqs = 1.0 / 10000.0 ** (torch.arange(0, half, 2).float() / half)
    angles = torch.stack(
        [torch.cat([row * freqs, column * freqs]) for row in range(side) for column in range(side)]
    ).repeat_interleave(2, dim=1)
    zeros = torch.zeros(1, head)
    return torch.cat([zeros, angles.cos()])[:, None], torch.cat([zeros, angles.sin()])[:, None]


def llama(peers: Mapping[str, Tensor], stack: str, tokens: Tensor) -> Tensor:
    """The blocks of one stack on (b, n, d), causally; element i takes row i of the angles."""
    length = tokens.shape[1]
    cosine, sine = (part[:length] for part in llama_table(3, 16))
    mask = torch.full((length, length), -math.inf).triu(1)
    for index in range(2):
        block = f"{stack}.{index}"
        inner = rms(tokens, 1e-5) * peers[f"{block}.attention_norm.weight"]
        parts = linear(peers, f"{block}.attention.wqkv", inner).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (2, 16)) for part in parts)
        mixed = attended(turned(query, cosine, sine), turned(key, cosine, sine), value, mask)
        tokens = tokens + linear(peers, f"{block}.attention.wo", mixed)
        inner = rms(tokens, 1e-5) * peers[f"{block}.ffn_norm.weight"]
        gate = F.silu(linear(peers, f"{block}.feed_forward.w1", inner))
        hidden = gate * linear(peers, f"{block}.feed_forward.w3", inner)
        tokens = tokens + linear(peers, f"{block}.feed_forward.w2", hidden)
    return tokens


def far_logits(peers: Mapping[str, Tensor], codes: Tensor, labels: Tensor) -> list[Tensor]:
    """Teacher-forced logits of FQGAN's released code; `codes` are visual first, then semantic."""
    numbers = range(1, codes.shape[1] + 1)
    embedded = [peers[f"tok_embeddings_{i}.weight"][codes[:, i - 1]] for i in numbers]
    first = peers["cls_embedding.embedding_table.weight"][labels].unsqueeze(1)
    rest = linear(peers, "aggregation_layer", torch.cat(embedded, dim=-1))[:, :-1]
    trunk = llama(peers, "layers", torch.cat([first, rest], dim=1))
    pairs = torch.stack([trunk, *embedded[:-1]], dim=2)
    normed = rms(llama(peers, "ar_head", pairs.flatten(0, 1)), 1e-5) * peers["norm.weight"]
    normed = normed.unflatten(0, trunk.shape[:2])
    return [linear(peers, f"output_{i}", normed[:, :, i - 1]) for i in numbers]


def gpt_logits(peers: Mapping[str, Tensor], codes: Tensor, labels: Tensor) -> list[Tensor]:
    """Teacher-forced logits of LlamaGen's released code."""
    first = peers["cls_embedding.embedding_table.weight"][labels].unsqueeze(1)
    rest = peers["tok_embeddings.weight"][codes[:, 0, :-1]]
    trunk = llama(peers, "layers", torch.cat([first, rest], dim=1))
    return [linear(peers, "output", rms(trunk, 1e-5) * peers["norm.weight"])]


@pytest.mark.parametrize("config", [SMALL_FAR, TRIPLE_FAR, SMALL_GPT], ids=["far", "triple", "gpt"])
def test_far_and_gpt_names_load_as_the_function_of_their_released_code(
    config: FARConfig, tmp_path: Path
) -> None:
    peers = far_peers(config)
    model = FAR(config).eval()
    model.load_state_dict(import_generator(saved(tmp_path, {"model": peers}), config).tensors)
    draw = torch.Generator().manual_seed(1)
    codes = [torch.randint(book.size, (3, 9), generator=draw) for book in config.codebooks]
    stacked, labels = torch.stack(codes, dim=1), torch.tensor([0, 3, 5])
    logits = far_logits if len(codes) > 1 else gpt_logits
    found, expected = model(stacked, labels), logits(peers, stacked, labels)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.01
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [SMALL_FAR, TRIPLE_FAR, SMALL_GPT], ids=["far", "triple", "gpt"])
def test_an_export_of_far_and_gpt_is_the_file_that_was_imported(
    config: FARConfig, tmp_path: Path
) -> None:
    peers = far_peers(config)
    found = import_generator(saved(tmp_path, peers), config)
    exported = export_generator(found.tensors, config)
    assert exported.keys() == peers.keys()
    assert all(torch.equal(exported[name], peers[name]) for name in peers)


@pytest.mark.parametrize("config", [SMALL_XAR, SMALL_FAR, SMALL_GPT], ids=["xar", "far", "gpt"])
def test_a_model_of_ours_comes_back_from_the_peers_names(
    config: XARConfig | FARConfig, tmp_path: Path
) -> None:
    shapes = {name: list(value.shape) for name, value in on_meta(config).items()}
    state = random_tensors(shapes)
    if "latent_scale" in state:
        state["latent_scale"] = torch.full((config.channels,), XAR_LATENT_SCALE)  # type: ignore[union-attr]
    found = import_generator(saved(tmp_path, export_generator(state, config)), config)
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in state.items())


# --------------------------------------------------------------------- files and what is refused


@pytest.mark.parametrize("entry", ["ema", "model_ema"])
def test_raw_weights_or_their_average(entry: str, tmp_path: Path) -> None:
    raw = xar_peers()
    average = {name: value.half() for name, value in raw.items()}
    path = saved(tmp_path, {"epoch": 7, "optimizer": {}, entry: average, "model": raw})
    name, peer = "middle_projection.weight", "decoder_embed.weight"
    assert torch.equal(import_generator(path, SMALL_XAR).tensors[name], raw[peer])
    found = import_generator(path, SMALL_XAR, weights="ema").tensors[name]
    assert torch.equal(found, average[peer].float())
    only = import_generator(saved(tmp_path, {entry: average}), SMALL_XAR).tensors[name]
    assert torch.equal(only, average[peer].float())
    with pytest.raises(
        ArtefactError, match=r'no ema or model_ema entry \(there is epoch, model\).*"model"'
    ):
        import_generator(saved(tmp_path, {"epoch": 7, "model": raw}), SMALL_XAR, weights="ema")


@pytest.mark.parametrize(
    "wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_names_of_wrapped_models_load_alike(wrapper: str, tmp_path: Path) -> None:
    peers = far_peers(SMALL_FAR)
    wrapped = {wrapper + name: value for name, value in peers.items()}
    path = saved(tmp_path, {"module": wrapped})
    found = import_generator(path, SMALL_FAR)
    assert torch.equal(found.tensors["aggregation.bias"], peers["aggregation_layer.bias"])
    assert found.sha256 == artefact.sha256_of(path)


def test_all_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    peers = xar_peers()
    del peers["z_proj.bias"]
    peers["encoder_novelty.weight"] = torch.zeros(3)
    # Its renamed twin is there already, so it must not take that one's place in silence.
    peers["class_embedding.weight"] = torch.zeros(6, 32)
    peers["decoder_blocks.7.attn.proj.bias"] = torch.zeros(32)
    peers["pred.weight"] = torch.zeros(8, 32)
    with pytest.raises(ArtefactError) as caught:
        import_generator(saved(tmp_path, peers), SMALL_XAR)
    text = str(caught.value)
    for part in (
        f"{tmp_path / 'peer.pt'}: its xar names",
        "xAR: width 32, depth 4, num_classes 5, channels 6, grid_size 4",
        "1 missing (input_projection.bias)",
        "3 extra (blocks.9.attention.projection.bias",
        "class_embedding.weight from class_embedding.weight",
        "encoder_novelty.weight",
        "1 misshapen (output_projection.weight (8, 32) for (6, 32))",
        "choose the recipe that fits: xar_b",
    ):
        assert part in text


def test_halves_of_unequal_depth_are_refused(tmp_path: Path) -> None:
    """Four blocks in all, as the config says, but the middle projection stands after the first or third of them."""
    for longer, shorter in (("encoder", "decoder"), ("decoder", "encoder")):
        peers = {
            key.replace(f"{shorter}_blocks.1.", f"{longer}_blocks.2."): value
            for key, value in xar_peers().items()
        }
        with pytest.raises(ArtefactError, match=r"12 missing \(blocks\.\d\.attention.*12 extra"):
            import_generator(saved(tmp_path, peers), SMALL_XAR)


def test_a_config_of_another_family_is_refused(tmp_path: Path) -> None:
    families = {"xar": SMALL_XAR, "far": SMALL_FAR, "llamagen_gpt": SMALL_GPT}
    files = {
        name: far_peers(config) if isinstance(config, FARConfig) else xar_peers()
        for name, config in families.items()
    }
    for name, peers in files.items():
        for other, config in families.items() - {(name, families[name])}:
            with pytest.raises(ArtefactError, match=rf"layout {name}, but the config.* {other} \("):
                import_generator(saved(tmp_path, peers), config)


def test_entities_that_the_released_xar_does_not_know_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, xar_peers())
    for changes in ({"entity": "subsample"}, {"entity": "token"}, {"cell_size": 1}):
        config = dataclasses.replace(SMALL_XAR, **changes)
        for refused in (
            lambda config=config: import_generator(path, config),
            lambda config=config: export_generator(on_meta(config), config),
        ):
            with pytest.raises(
                ValueError, match=r"model\.entity = .*2 x 2 cells alone; set entity"
            ):
                refused()


def test_a_mask_of_other_cells_is_refused(tmp_path: Path) -> None:
    rows = torch.full((16, 16), -math.inf).triu(1)
    with pytest.raises(ArtefactError, match=r"its mask, \(1, 1, 16, 16\), is not that of 2 x 2"):
        import_generator(saved(tmp_path, xar_peers() | {"mask": rows[None, None]}), SMALL_XAR)


def test_codebooks_in_another_order_are_refused() -> None:
    assert layout_of(TRIPLE_FAR) == "far"
    swapped = small_far(("semantic", 7), ("visual", 12))
    with pytest.raises(ValueError, match=r"model\.codebooks = semantic, visual: FQGAN's.*hold vis"):
        layout_of(swapped)


def test_a_state_of_another_model_is_not_exported() -> None:
    with pytest.raises(ValueError, match=r"state: does not fit.*missing \(aggregation"):
        export_generator(on_meta(SMALL_GPT), SMALL_FAR)


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, ("harm.txt", "w"))


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    peers = far_peers(SMALL_GPT)
    path = saved(tmp_path, {"model": peers, "args": Harmful()})
    assert torch.equal(
        import_generator(path, SMALL_GPT).tensors["norm.weight"], peers["norm.weight"]
    )
    assert not (tmp_path / "harm.txt").exists()


def test_files_that_are_no_generator_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"absent\.pt: no such checkpoint"):
        import_generator(tmp_path / "absent.pt", SMALL_XAR)
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(ArtefactError, match=f"{name}: not readable as a generator checkpoint"):
            import_generator(tmp_path / name, SMALL_XAR)
    with pytest.raises(ArtefactError, match="holds a Tensor"):
        import_generator(saved(tmp_path, torch.ones(3)), SMALL_XAR)
    # MAR, xAR's ancestor, shares most of its names but is another model.
    mar = {key: value for key, value in xar_peers().items() if ".ada_lin." not in key}
    with pytest.raises(ArtefactError, match=r"no known layout \(.*, \.\.\.\); known are xar, far"):
        import_generator(saved(tmp_path, mar), SMALL_XAR)
    with pytest.raises(ArtefactError, match=r"0 names are of no known layout \(nothing\)"):
        import_generator(saved(tmp_path, {}), SMALL_XAR)


@pytest.mark.parametrize("config", [SMALL_XAR, SMALL_FAR, SMALL_GPT], ids=["xar", "far", "gpt"])
def test_a_file_with_numbers_that_are_not_finite_is_refused(config: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    peers = export_generator(build_generator(config).state_dict(), config)
    # xAR's mask holds infinities rightly.
    import_generator(saved(tmp_path, peers), config)
    name = next(name for name in peers if name.endswith("weight"))
    peers[name] = peers[name].clone()
    peers[name].view(-1)[5] = math.nan
    with pytest.raises(ArtefactError, match=rf"{re.escape(name)} \(1 of .*fetch the file again"):
        import_generator(saved(tmp_path, peers), config)


@pytest.mark.parametrize("num_heads", [1, 4, 8])
def test_another_number_of_heads_is_told_by_the_angles_of_an_xar(num_heads, tmp_path):
    small = XARConfig(
        grid_size=4, cell_size=2, channels=8, width=32, depth=4, num_heads=2, num_classes=5
    )
    peers = export_generator(XAR(small).state_dict(), small)
    torch.save(peers, tmp_path / "xar.pt")
    half = {name: value.bfloat16() for name, value in peers.items()}
    torch.save(half, tmp_path / "half.pt")
    import_generator(tmp_path / "half.pt", small)
    other = dataclasses.replace(small, num_heads=num_heads)
    message = rf"rope\.freqs_cos is of shape \(16, 16\) .* for num_heads = {num_heads} "
    with pytest.raises(ArtefactError, match=message):
        import_generator(tmp_path / "xar.pt", other)
    peers["encoder_blocks.0.attn.rope.freqs_cos"] = torch.ones(16, 16)
    torch.save(peers, tmp_path / "xar.pt")
    with pytest.raises(ArtefactError, match=r"encoder_blocks\.0\S+ is of other positions for num"):
        import_generator(tmp_path / "xar.pt", small)


def test_a_quantised_checkpoint_is_refused(tmp_path):
    small = XARConfig(
        grid_size=4, cell_size=2, channels=8, width=32, depth=4, num_heads=2, num_classes=5
    )
    peers = export_generator(XAR(small).state_dict(), small)
    codes = {
        name: value.to(torch.int8) if value.ndim == 2 and "rope" not in name else value
        for name, value in peers.items()
    }
    torch.save(codes, tmp_path / "xar.pt")
    with pytest.raises(ArtefactError, match=r"of another kind of number \(.* int8 for float32"):
        import_generator(tmp_path / "xar.pt", small)
