"""Names of tensors in other projects' generator checkpoints, and the same under this package's, as tables.

The layouts are those of xAR, FAR (FQGAN), LlamaGen's GPT, IBQ's transformer, and the GPT of taming-transformers, which
is VQGAN-LC's too. Every row names one thing twice, so a table reads both ways.
Read next: glotok_ray/interop/generators.py
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from glotok_ray.interop.name_rows import renamed

Table = tuple[tuple[str, str], ...]
"""(peer's name, our name) of a module or parameter; "#" stands for one number, the same on both sides."""

# The peers count two halves of blocks, each from 0; `_joined` and `_halved` count them through.
_XAR: Table = (
    ("class_emb", "class_embedding"),
    ("time_embed.mlp.0", "time_embedding.first"),
    ("time_embed.mlp.2", "time_embedding.second"),
    ("z_proj", "input_projection"),
    ("encoder_pos_embed_learned", "first_position"),
    ("z_proj_ln", "first_norm"),
    ("encoder_blocks.#.ada_lin.1", "blocks.#.modulation"),
    ("encoder_blocks.#.attn.qkv", "blocks.#.attention.query_key_value"),
    ("encoder_blocks.#.attn.proj", "blocks.#.attention.projection"),
    # timm's SwiGLU, whose activation acts on fc1_g.
    ("encoder_blocks.#.mlp.fc1_g", "blocks.#.mlp.gate"),
    ("encoder_blocks.#.mlp.fc1_x", "blocks.#.mlp.value"),
    ("encoder_blocks.#.mlp.fc2", "blocks.#.mlp.down"),
    ("encoder_norm", "middle_norm"),
    ("decoder_embed", "middle_projection"),
    ("decoder_pos_embed_learned", "second_position"),
    ("decoder_norm", "final_norm"),
    ("pred", "output_projection"),
)

# Llama's block: the activation acts on w1.
_LLAMA: Table = (
    ("cls_embedding.embedding_table", "class_embedding"),
    ("layers.#.attention_norm", "blocks.#.attention_norm"),
    ("layers.#.attention.wqkv", "blocks.#.attention.query_key_value"),
    ("layers.#.attention.wo", "blocks.#.attention.projection"),
    ("layers.#.ffn_norm", "blocks.#.mlp_norm"),
    ("layers.#.feed_forward.w1", "blocks.#.mlp.gate"),
    ("layers.#.feed_forward.w3", "blocks.#.mlp.value"),
    ("layers.#.feed_forward.w2", "blocks.#.mlp.down"),
    ("norm", "norm"),
)
_GPT: Table = (
    *_LLAMA,
    ("tok_embeddings", "embeddings.0"),
    ("output", "outputs.0"),
)
_FAR: Table = (
    *_LLAMA,
    *(
        (peer.replace("layers.", "ar_head."), ours.replace("blocks.", "head_blocks."))
        for peer, ours in _LLAMA
        if peer.startswith("layers.")
    ),
    *((f"tok_embeddings_{number}", f"embeddings.{number - 1}") for number in (1, 2, 3)),
    ("aggregation_layer", "aggregation"),
    *((f"output_{number}", f"outputs.{number - 1}") for number in (1, 2, 3)),
)

_IBQ: Table = (
    ("tok_emb", "embeddings.0"),
    ("class_emb.embedding_table", "class_embedding"),
    *(
        (peer.replace("layers.", "blocks."), ours)
        for peer, ours in _LLAMA
        if peer.startswith("layers.")
    ),
    # Number 0 of the peer's sequence is the SiLU.
    ("blocks.#.ada_lin.1", "modulation.blocks.#"),
    ("head_nm.rmsnorm", "norm"),
    ("head_nm.ada_lin.1", "modulation.final"),
    ("head", "outputs.0"),
)
_TAMING: Table = (
    ("tok_emb", "embeddings.0"),
    ("pos_emb", "positions"),
    ("blocks.#.ln1", "blocks.#.attention_norm"),
    ("blocks.#.attn.query", "blocks.#.attention.query"),
    ("blocks.#.attn.key", "blocks.#.attention.key"),
    ("blocks.#.attn.value", "blocks.#.attention.value"),
    ("blocks.#.attn.proj", "blocks.#.attention.projection"),
    ("blocks.#.ln2", "blocks.#.mlp_norm"),
    ("blocks.#.mlp.0", "blocks.#.mlp.first"),
    ("blocks.#.mlp.2", "blocks.#.mlp.second"),
    ("ln_f", "norm"),
    ("head", "outputs.0"),
)

# xAR's tables of rotary angles and its mask, which the code computes anew, as it does taming's masks, and LlamaGen's
# angles where saved. IBQ's sampler leaves its caches behind.
_LEFT_OUT = re.compile(
    r"^mask$|\.rope\.freqs(_cos|_sin)?$|^freqs_cis$|^blocks\.\d+\.attn\.mask$|\.kv_cache\."
    # The tokenizer, which lies in the same file.
    r"|^first_stage_model\.|^vqgan\."
)
# What Lightning modules and VQGAN-LC's call the network.
_PREFIX = "transformer."
_PEER_BLOCK = re.compile(r"^(encoder|decoder)_blocks\.(\d+)\.")


class Layout(NamedTuple):
    """One way to name the same parts."""

    marks: tuple[str, ...]
    """Beginnings of names, each of which occurs in every such checkpoint."""
    table: Table


LAYOUTS: Mapping[str, Layout] = {
    "xar": Layout(("time_embed.mlp.", "encoder_blocks.0.ada_lin."), _XAR),
    "far": Layout(("tok_embeddings_1.", "ar_head."), _FAR),
    "llamagen_gpt": Layout(("tok_embeddings.", "cls_embedding.embedding_table."), _GPT),
    "ibq_ar": Layout(("tok_emb.", "class_emb.embedding_table."), _IBQ),
    "taming_gpt": Layout(("tok_emb.", "pos_emb", "blocks.0.ln1."), _TAMING),
}


def detect(names: Iterable[str]) -> str | None:
    """The layout that a checkpoint's names follow; None for an unknown one."""
    known = tuple(name.removeprefix(_PREFIX) for name in names)
    for layout, (marks, _) in LAYOUTS.items():
        if all(any(name.startswith(mark) for name in known) for mark in marks):
            return layout
    return None


def our_name(name: str, layout: str, first_half: int) -> str | None:
    """Our name of a peer's tensor; None where it is left out on purpose. Unknown names come back as they are.

    `first_half` blocks are what xAR calls its encoder; the other layouts count all blocks through and do not read it.
    """
    name = name.removeprefix(_PREFIX)
    if _LEFT_OUT.search(name):
        return None
    found = renamed(_joined(name, first_half), LAYOUTS[layout].table)
    return name if found is None else found


def peer_name(name: str, layout: str, first_half: int) -> str | None:
    """A peer's name of our tensor; None where it has none. `first_half` is as for `our_name`."""
    rows = ((ours, peer) for peer, ours in LAYOUTS[layout].table)
    found = renamed(name, rows)
    return None if found is None else _halved(found, first_half)


def _joined(name: str, first_half: int) -> str:
    def through(match: re.Match[str]) -> str:
        start = first_half if match[1] == "decoder" else 0
        return f"encoder_blocks.{int(match[2]) + start}."

    return _PEER_BLOCK.sub(through, name)


def _halved(name: str, first_half: int) -> str:
    def half(match: re.Match[str]) -> str:
        number = int(match[2])
        second = number >= first_half
        return f"{'decoder' if second else 'encoder'}_blocks.{number - first_half * second}."

    return _PEER_BLOCK.sub(half, name)
